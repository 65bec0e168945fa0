"""Paired statistics between evaluated runs: which is better, by how much, and how sure that is."""
