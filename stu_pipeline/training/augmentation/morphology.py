"""Binary morphology with balls, on the device of the mask."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.functional import pad

MAX_FOOTPRINT = 17
"""Longest side of a ball of radius 8. One size for every radius: plans of Fourier transforms are kept per size."""

Footprint = NDArray[np.bool_]


def build_ball(radius: float, num_axes: int) -> Footprint:
    """Return nnU-Net's structuring element: a disk in 2D, a ball in 3D.

    For a radius that is not a whole number its side may be even, and a disk is not symmetric; both as in scikit-image.
    """
    from skimage.morphology import ball, disk

    footprint: Footprint = (disk if num_axes == 2 else ball)(radius, dtype=bool)
    return footprint


def apply_operator(mask: Tensor, operator: str, footprint: Footprint) -> Tensor:
    """Dilate, erode, close or open a mask and return the result.

    Beyond the border counts as background where a mask is dilated and as foreground where it is eroded.

    Args:
        mask: `(*spatial)`, boolean; stays as it is.
        operator: `dilate`, `erode`, `close` or `open`.
        footprint: as many axes as the mask, made by `build_ball`.
    """
    if operator == "dilate":
        return dilate(mask, footprint)
    if operator == "erode":
        return ~dilate(~mask, footprint)
    if operator == "close":
        return ~dilate(~dilate(mask, footprint), footprint)
    return dilate(~dilate(~mask, footprint), footprint)


def dilate(mask: Tensor, footprint: Footprint) -> Tensor:
    """Return where the footprint, laid over a voxel, meets the mask. The footprint is not mirrored."""
    # A GPU waits less for a few large transforms than for some two hundred small kernels; a CPU computes less.
    return dilate_by_transform(mask, footprint) if mask.is_cuda else dilate_by_rows(mask, footprint)


def dilate_by_rows(mask: Tensor, footprint: Footprint) -> Tensor:
    """Dilate with whole numbers, one operation per row of the footprint.

    The rows of a ball contain each other. So the mask dilated by a row grows from that of the next shorter row, and
    each is laid onto the result wherever the footprint has such a row.
    """
    padded = pad(mask.to(torch.uint8), _list_borders(footprint)).contiguous()
    strides, source = padded.stride(), padded.flatten()
    row_dilated, result = torch.zeros_like(source), torch.zeros_like(source)
    columns_done = np.zeros(footprint.shape[-1], bool)
    rows = {place: footprint[place] for place in np.ndindex(footprint.shape[:-1]) if footprint[place].any()}
    for place in sorted(rows, key=lambda place: int(rows[place].sum())):
        for column in np.flatnonzero(rows[place] & ~columns_done).tolist():
            _unite_shifted(row_dilated, source, column)
        columns_done |= rows[place]
        _unite_shifted(result, row_dilated, sum(i * stride for i, stride in zip(place, strides, strict=False)))
    return _crop(result.view(padded.shape), mask).bool()


def dilate_by_transform(mask: Tensor, footprint: Footprint) -> Tensor:
    """Dilate through Fourier transforms: few kernels, whatever the footprint."""
    lengths = [next_fast_len(size + MAX_FOOTPRINT - 1, real=True) for size in mask.shape]
    axes = tuple(range(mask.ndim))
    element = torch.from_numpy(footprint.astype(np.float32))
    if mask.is_cuda:
        element = element.pin_memory().to(mask.device, non_blocking=True)
    spectrum = torch.fft.rfftn(pad(mask.float(), _list_borders(footprint)), s=lengths, dim=axes)
    spectrum *= torch.fft.rfftn(element, s=lengths, dim=axes).conj()
    # Counts of voxels: whole numbers but for rounding.
    return _crop(torch.fft.irfftn(spectrum, s=lengths, dim=axes), mask) > 0.5


def _list_borders(footprint: Footprint) -> list[int]:
    """Return what to pad, last axis first: the shorter half of an even side comes before the image."""
    return [width for side in reversed(footprint.shape) for width in ((side - 1) // 2, side // 2)]


def _unite_shifted(result: Tensor, source: Tensor, offset: int) -> None:
    result[: len(result) - offset].bitwise_or_(source[offset:])


def _crop(padded: Tensor, like: Tensor) -> Tensor:
    return padded[tuple(slice(size) for size in like.shape)]
