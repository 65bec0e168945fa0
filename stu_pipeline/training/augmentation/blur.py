"""Gaussian blur, one axis after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

TRUNCATE = 6.0
"""Width of nnU-Net's kernel in sigmas, both sides together, before it is rounded to an odd number of voxels."""


def blur_volume(volume: Tensor, sigmas: Sequence[float]) -> None:
    """Blur one channel in place; beyond its border the image is mirrored without repeating the border voxel.

    Args:
        volume: `(*spatial)`, float; axes shorter than the kernel are mirrored as often as needed.
        sigmas: one per axis, in voxels.
    """
    blurred = volume
    for axis, sigma in enumerate(sigmas):
        blurred = _blur_axis(blurred, axis, build_kernel(sigma))
    volume.copy_(blurred)


def build_kernel(sigma: float) -> list[float]:
    """Return the weights of nnU-Net's kernel: odd in number, symmetric, of sum 1."""
    half = (choose_kernel_size(sigma) - 1) // 2
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    return [float(weight) for weight in weights / weights.sum()]


def choose_kernel_size(sigma: float) -> int:
    """Return the odd number of voxels nnU-Net's kernel has."""
    width = sigma * TRUNCATE + 0.5
    size = round(width)
    if size % 2 == 1:
        return size
    return size + 1 if width >= size else size - 1


def _blur_axis(volume: Tensor, axis: int, kernel: list[float]) -> Tensor:
    # Weighted sums of shifted views: no convolution, whose precision and algorithm depend on global switches (TF32).
    half, size = len(kernel) // 2, volume.shape[axis]
    padded = _mirror_border(volume, axis, half)
    blurred = padded.narrow(axis, half, size) * kernel[half]
    for offset in range(half):
        blurred.add_(padded.narrow(axis, offset, size), alpha=kernel[offset])
        blurred.add_(padded.narrow(axis, 2 * half - offset, size), alpha=kernel[offset])
    return blurred


def _mirror_border(volume: Tensor, axis: int, width: int) -> Tensor:
    size = volume.shape[axis]
    places = np.pad(np.arange(size), width, mode="reflect").tolist()
    before, after = places[:width], places[width + size :]
    slices = [[volume.narrow(axis, place, 1) for place in side] for side in (before, after)]
    return torch.cat([*slices[0], volume, *slices[1]], dim=axis)
