"""What a version is: wire contract, manifest, signature, names, Triton configuration, recipe."""
