"""The `onnxruntime` backend of a Triton without the native one."""
