"""Networks: training, calibration, files."""
