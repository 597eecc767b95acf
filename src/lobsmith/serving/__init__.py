"""Model servers: supervised Triton with its onnxruntime backend, and the in-process engine."""
