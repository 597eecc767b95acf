"""Where it lives: manifest, Triton model repository, MLflow registry, journal."""
