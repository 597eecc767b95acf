"""Two versions compared on live traffic: blocks, e-values, shadow evaluation, A/B test, rollback."""
