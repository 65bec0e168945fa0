"""What looks odd in a dataset: each judge looks at one thing, over all cases."""
