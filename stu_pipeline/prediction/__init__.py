"""Prediction: model folders, tiles, ensembles, and masks that are proven complete."""
