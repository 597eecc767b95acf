"""Live capture: a venue's feed into raw files."""
