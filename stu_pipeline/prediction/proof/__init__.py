"""What is proven about an output folder: which mask came from which image, model and options."""
