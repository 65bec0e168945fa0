"""Post-processing: clean label maps up, by rules that a cross-validation has shown to help."""
