"""Feature kernel, rolling normaliser, labels, data sets."""
