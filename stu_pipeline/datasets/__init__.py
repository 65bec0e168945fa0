"""Datasets: `dataset.json`, cases, verified reading, checks, splits and the phantom demo data."""
