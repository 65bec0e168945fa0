"""The corrected copy of a dataset: what is certain is mended, the rest is listed."""
