"""How it gets small and fast: pruning, quantisation, export, engines."""

MODEL = "model.onnx"
"""The exported network, for any batch and time."""
STEP = "step.onnx"
"""The same network for one row of one stream."""
GOLDEN = "golden.safetensors"
"""Its answers to held-out rows: see `lobsmith.compress.golden`."""
