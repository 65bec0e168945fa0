"""Contrast."""

from __future__ import annotations

import torch
from torch import Tensor


def scale_contrast(volume: Tensor, factor: float) -> None:
    """Scale one channel `(*spatial)` around its mean in place and clip it to the range it had."""
    mean = volume.mean()
    lowest, highest = torch.aminmax(volume)
    volume.sub_(mean).mul_(factor).add_(mean).clamp_(lowest, highest)
