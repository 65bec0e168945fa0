"""Cross-validation folds: made, balanced, checked for leaks, and kept."""
