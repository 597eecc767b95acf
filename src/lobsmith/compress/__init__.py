"""How it gets small and fast: export to ONNX."""

MODEL = "model.onnx"
"""The exported network."""
GOLDEN = "golden.safetensors"
"""Its answers to held-out rows: see `lobsmith.compress.golden`."""
