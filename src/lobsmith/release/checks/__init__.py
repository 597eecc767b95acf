"""What a file must pass before a server may load it."""
