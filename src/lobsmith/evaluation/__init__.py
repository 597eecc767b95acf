"""How good it is: metrics, intervals, calibration, baselines, walk-forward, the report."""
