"""Putting the weights of one network into another: channels, dimensions, heads, and a table of what became of each."""
