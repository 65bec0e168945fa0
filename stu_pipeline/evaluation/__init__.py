"""Evaluation: scores per case and label, statistics over cases, `summary.json`."""
