"""Preprocessing: raw cases to the arrays training reads."""
