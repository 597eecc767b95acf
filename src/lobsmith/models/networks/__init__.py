"""The networks of the registry, their inputs and outputs."""
