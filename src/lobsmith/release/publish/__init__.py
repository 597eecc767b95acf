"""How a version gets into the repository: published, promoted, with its companions."""
