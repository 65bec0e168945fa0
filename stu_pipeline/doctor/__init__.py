"""What is wrong with a machine, an installation or a dataset, and what to do about it."""
