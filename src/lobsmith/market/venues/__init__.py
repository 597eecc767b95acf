"""Capture readers, one module per venue's format."""
