"""Int8 and half precision of an exported graph."""
