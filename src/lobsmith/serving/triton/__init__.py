"""The embedded Triton: installation, process, control calls, loading, warm-up."""
