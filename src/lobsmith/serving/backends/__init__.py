"""Python-based Triton backends; each runs inside Triton's stub process, not in lobsmith's."""
