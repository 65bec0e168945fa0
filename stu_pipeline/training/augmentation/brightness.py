"""Brightness."""

from __future__ import annotations

from torch import Tensor


def scale_brightness(volume: Tensor, factor: float) -> None:
    """Multiply one channel `(*spatial)` by a factor, in place."""
    volume.mul_(factor)
