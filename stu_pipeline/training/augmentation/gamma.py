"""Gamma curve."""

from __future__ import annotations

import torch
from torch import Tensor

_EPSILON = 1e-7
"""nnU-Net's: it keeps a constant image constant."""


def apply_gamma(volume: Tensor, gamma: float, *, is_inverted: bool) -> None:
    """Bend the intensities of one channel by a power in place; its mean and standard deviation stay.

    Args:
        volume: `(*spatial)`, float, of more than one voxel.
        gamma: the power, applied between the lowest and the highest value.
        is_inverted: bend the negative of the image.
    """
    if is_inverted:
        volume.neg_()
    mean, std = volume.mean(), volume.std()
    lowest, highest = torch.aminmax(volume)
    extent = highest - lowest
    volume.sub_(lowest).div_(extent.clamp(min=_EPSILON)).pow_(gamma).mul_(extent).add_(lowest)
    bent_mean, bent_std = volume.mean(), volume.std()
    volume.sub_(bent_mean).mul_(std / bent_std.clamp(min=_EPSILON)).add_(mean)
    if is_inverted:
        volume.neg_()
