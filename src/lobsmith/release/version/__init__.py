"""A version: wire contract, manifest, signature, names, Triton configuration, recipe."""
