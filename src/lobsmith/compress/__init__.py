"""How it gets small and fast: export to ONNX."""
