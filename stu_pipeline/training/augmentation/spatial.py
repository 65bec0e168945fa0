"""Rotate and scale a sample on the device where it is trained, as nnU-Net's SpatialTransform does.

The image is interpolated linearly with 0 outside, labels by `label_voting` with -1 outside. The patch is worked on in
slabs: what is alive beside input and output stays below ten times the patch's int16 volume, for one label map and a
patch of 96 voxels a side or more (on the CPU, where cells are marked first, below twelve times).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from stu_pipeline.training.augmentation.label_voting import OUTSIDE_LABEL, pad_labels, vote_labels

_NUM_SLABS = 16
_SMALL_SLAB_VOXELS = 2**15
"""Slabs are not cut finer: below, the cost is in starting the operations."""


def transform_sample(
    data: Tensor, labels: Tensor, affine: NDArray[np.float64], center: Sequence[float], patch: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Look at a crop through a transformed patch; conventions as in `Sample`.

    An affine that leaves the first of three axes alone, at a whole offset, treats every slice as a flat image: slices
    are never mixed (dummy-2D).

    Args:
        data: float32 `(channel, *spatial)`; 0 is what lies outside.
        labels: int16 `(map, *spatial)`, at least one map; -1 is what lies outside.
        affine: `(d, d)`, output voxel to crop voxel, both relative to their centres.
        center: position of the patch's centre in the crop, whole or half voxels.
        patch: size of the output.

    Returns:
        Float32 `(channel, *patch)` and int16 `(map, *patch)`, on the device of the input. An empty crop gives 0 and
        -1 everywhere.
    """
    if 0 in data.shape[1:]:
        return data.new_zeros(len(data), *patch), labels.new_full((len(labels), *patch), OUTSIDE_LABEL)
    if not _keeps_slices(affine, center, patch):
        return _transform(data, labels, affine, center, patch)
    first = round(center[0] - (patch[0] - 1) / 2)
    data = _take_slices(data, first, patch[0], value=0)
    labels = _take_slices(labels, first, patch[0], value=OUTSIDE_LABEL)
    flat_data, flat_labels = _transform(data.flatten(0, 1), labels.flatten(0, 1), affine[1:, 1:], center[1:], patch[1:])
    return flat_data.view(-1, *patch), flat_labels.view(-1, *patch)


def _keeps_slices(affine: NDArray[np.float64], center: Sequence[float], patch: Sequence[int]) -> bool:
    unit = np.array([1.0, 0.0, 0.0])
    if len(patch) != 3 or not (np.array_equal(affine[0], unit) and np.array_equal(affine[:, 0], unit)):
        return False
    return (center[0] - (patch[0] - 1) / 2).is_integer()


def _take_slices(volume: Tensor, first: int, count: int, *, value: int) -> Tensor:
    """Cut `count` slices from slice `first` on, filled with `value` where there are none."""
    size = volume.shape[1]
    start, stop = min(max(first, 0), size), max(min(first + count, size), 0)
    cut = volume[:, start : max(start, stop)]
    before = min(max(-first, 0), count)
    after = count - before - cut.shape[1]
    if before or after:
        cut = functional.pad(cut, (0, 0, 0, 0, before, after), value=value)
    return cut


def _transform(
    data: Tensor, labels: Tensor, affine: NDArray[np.float64], center: Sequence[float], patch: Sequence[int]
) -> tuple[Tensor, Tensor]:
    out_data = data.new_empty(len(data), *patch)
    out_labels = labels.new_empty(len(labels), *patch)
    padded = pad_labels(labels)
    origin = [math.floor(position) for position in center]
    remainders = [position - whole for position, whole in zip(center, origin, strict=True)]
    for rows in _cut_slabs(patch, num_maps=len(labels)):
        offsets = _compute_offsets(affine, patch, rows, device=data.device)
        out_data[:, rows] = _interpolate(data, offsets, center)
        positions = [offset.add_(remainder) for offset, remainder in zip(offsets, remainders, strict=True)]
        out_labels[:, rows] = vote_labels(padded, positions, origin)
    return out_data, out_labels


def _cut_slabs(patch: Sequence[int], *, num_maps: int) -> Iterator[slice]:
    """Cut the first axis so that a slab of all maps is a sixteenth of the patch, unless that is small."""
    row_voxels = num_maps * math.prod(patch[1:])
    slab_voxels = max(_SMALL_SLAB_VOXELS, row_voxels * patch[0] // _NUM_SLABS)
    num_rows = max(1, slab_voxels // row_voxels)
    for start in range(0, patch[0], num_rows):
        yield slice(start, min(start + num_rows, patch[0]))


def _compute_offsets(
    affine: NDArray[np.float64], patch: Sequence[int], rows: slice, *, device: torch.device
) -> list[Tensor]:
    """Compute where output voxels look, relative to the centre: float32 `(rows, *patch[1:])` for every axis.

    Sums of three vectors instead of a matrix product: a product may be rounded to ten bits on a GPU (TF32).
    """
    vectors = []
    for axis, size in enumerate(patch):
        start, stop = (rows.start, rows.stop) if axis == 0 else (0, size)
        steps = torch.arange(start, stop, dtype=torch.float32, device=device) - (size - 1) / 2
        vectors.append(steps.view([-1 if other == axis else 1 for other in range(len(patch))]))
    offsets = []
    for row in affine.astype(np.float32).tolist():
        offset = row[0] * vectors[0]
        for factor, vector in zip(row[1:], vectors[1:], strict=True):
            offset = offset + factor * vector
        offsets.append(offset)
    return offsets


def _interpolate(data: Tensor, offsets: Sequence[Tensor], center: Sequence[float]) -> Tensor:
    """Interpolate `(channel, *spatial)` at offsets from the centre; 0 outside."""
    # grid_sample counts from the middle of the volume, in halves of its size, and takes the last axis first.
    grid = [
        (offset + (position - (size - 1) / 2)) / (size / 2)
        for offset, position, size in zip(offsets, center, data.shape[1:], strict=True)
    ]
    stacked = torch.stack(grid[::-1], dim=-1).unsqueeze(0)
    return functional.grid_sample(
        data.unsqueeze(0), stacked, mode="bilinear", padding_mode="zeros", align_corners=False
    )[0]
