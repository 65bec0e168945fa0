"""Model folders: what they hold, which folds are used, and the networks built from them."""
