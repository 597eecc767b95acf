"""Structured pruning and distillation."""
