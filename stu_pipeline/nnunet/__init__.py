"""The fence: the only package that imports nnU-Net."""
