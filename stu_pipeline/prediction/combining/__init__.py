"""Several folds and models as one: groups that share a grid, and what is averaged where."""
