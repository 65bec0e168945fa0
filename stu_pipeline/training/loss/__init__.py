"""Loss: nnU-Net's Dice and cross-entropy, without one-hot maps and exact over the parts of a batch."""
