"""Structured pruning with distillation."""
