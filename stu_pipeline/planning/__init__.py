"""Planning: from a checked dataset to a plan file with scale, patch, batch and the reasons."""
