"""What it learns: networks, the training loop, baselines."""
