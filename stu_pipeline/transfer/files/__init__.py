"""Files of weights: recognising and reading them as data, and what is said about them beside them."""
