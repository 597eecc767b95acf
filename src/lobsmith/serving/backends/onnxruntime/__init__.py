"""The `onnxruntime` backend for a Triton that lacks the native one."""
