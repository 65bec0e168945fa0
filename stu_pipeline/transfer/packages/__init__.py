"""Models as packages: made of foreign weights, written for others, and installed from what others wrote."""
