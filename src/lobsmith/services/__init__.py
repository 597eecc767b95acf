"""What `lobsmith up` runs: local servers and workers, supervised until it ends."""
