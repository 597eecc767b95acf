"""What live traffic says of two versions: blocks, e-values, shadow evaluation, A/B test, rollback."""
