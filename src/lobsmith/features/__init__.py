"""What the model sees: the streaming feature kernel, the rolling normaliser, labels."""
