"""What records say beyond one run: outcomes, calibration, frontiers and costs."""
