"""Embedded Triton: installation, process, control calls, loading, warm-up."""
