"""Python-based Triton backends; they run in Triton's stub process."""
