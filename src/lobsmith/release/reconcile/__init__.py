"""From the aliases in the registry to what the repository serves."""
