"""Readers of recorded files, one module a venue's format."""
