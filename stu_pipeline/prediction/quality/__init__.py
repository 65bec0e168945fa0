"""Quality without labels: what a prediction knows about itself, calibrated on the cross-validation."""
