"""Metrics, intervals, calibration, baselines, walk-forward validation and the report."""
