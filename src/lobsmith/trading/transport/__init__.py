"""Ways to ask a model server: Triton over gRPC or HTTP, or the engine in this process."""
