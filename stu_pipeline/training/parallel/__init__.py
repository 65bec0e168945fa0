"""Parallel: one training on several GPUs and nodes."""
