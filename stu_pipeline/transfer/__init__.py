"""Weights that travel: reading foreign files safely, what is in them, and putting them into another network."""
