"""Drift: adversarial validation against the reference window, null distributions, a one-class drift score."""

REFERENCE = "reference.safetensors"
"""Raw rows of the training window, thinned, with their scaling constants."""
SCORE = "drift.onnx"
"""The drift score of a block of raw rows; served as `<model>_drift`."""
NULL = "null.json"
"""The null distribution of the training window's own windows, for a version's first checks."""
