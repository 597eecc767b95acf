"""The networks of the registry, their inputs and their outputs."""
