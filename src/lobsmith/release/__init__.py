"""Publishing and serving of versions: manifest, Triton model repository, MLflow registry, journal."""
