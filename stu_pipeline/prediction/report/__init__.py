"""What is said about predicted cases: volumes, warnings, and tables."""
