"""TensorRT engines of an exported network."""
