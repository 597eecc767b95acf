"""Reconcile: the repository follows the aliases in the registry."""
