"""Is the market still the one that the model has learnt: adversarial validation and a reference of one class."""

REFERENCE = "reference.safetensors"
"""Raw rows of the training window, thinned, with the constants that they are scaled by."""
SCORE = "drift.onnx"
"""How unlike the training window a block of raw rows is; served as `<model>_drift`."""
NULL = "null.json"
"""What is usual within the training window: the statistics of its own windows, for the first looks at a version."""
