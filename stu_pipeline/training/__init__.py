"""Training: one fold of one plan on nnU-Net's loop."""
