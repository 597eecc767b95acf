"""Live capture of a venue's feed."""
