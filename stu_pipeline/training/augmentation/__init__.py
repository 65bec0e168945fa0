"""Augmentation: nnU-Net's random transforms, on the device that trains."""
