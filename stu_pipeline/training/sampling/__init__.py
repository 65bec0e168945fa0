"""Sampling: which patch of which case a training sees, and reading it in time."""
