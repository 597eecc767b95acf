"""Benchmarks of `lobsmith bench`, each beside its baseline in the same run."""
