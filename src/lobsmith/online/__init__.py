"""Live comparison of two versions: blocks, e-values, shadow evaluation, A/B test, rollback."""
