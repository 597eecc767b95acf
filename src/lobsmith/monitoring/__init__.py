"""How it is doing."""
