"""Rewrites of an exported ONNX graph."""
