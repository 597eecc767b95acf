"""Supervision of the local servers and workers that `lobsmith up` runs."""
