"""Probing: a few steps of a plan on random numbers, measured."""
