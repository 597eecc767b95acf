"""Networks, and how they are trained, calibrated and saved."""
