"""The mask as its definition says: all channels resampled at once in single precision, then decided. NumPy only."""

import numpy as np
import torch

from stu_pipeline.inference.case_grid import NEAREST, CaseGrid, Decision
from stu_pipeline.inference.slabs import Slab
from stu_pipeline.preparation.interpolation import find_corners, find_nearest


def make_grid(network, cropped, *, margin=((0, 0), (0, 0), (0, 0)), backward=(0, 1, 2), **changes):
    """Make a grid with `margin` voxels of background before and after the box along each axis."""
    box = tuple((before, before + size) for (before, _), size in zip(margin, cropped, strict=True))
    full = tuple(stop + after for (_, stop), (_, after) in zip(box, margin, strict=True))
    return CaseGrid(
        network_shape=tuple(network),
        cropped_shape=tuple(cropped),
        full_shape=full,
        box=box,
        transpose_backward=tuple(backward),
        **changes,
    )


def resample_linearly(scores, grid):
    """Resample `(c, z, y, x)` float32 along x, then y, then z, every product and sum rounded."""
    scores = np.asarray(scores, dtype=np.float32)
    for axis in (2, 1, 0):
        size_in, size_out = grid.network_shape[axis], grid.cropped_shape[axis]
        order = grid.separate_order if axis == grid.separate_axis else grid.order
        if order == NEAREST:
            scores = np.take(scores, find_nearest(size_in, size_out), axis=1 + axis)
            continue
        corners = find_corners(size_in, size_out)
        shape = [-1 if index == 1 + axis else 1 for index in range(4)]
        low, high = (w.astype(np.float32).reshape(shape) for w in (corners.lower_weight, corners.upper_weight))
        scores = (
            np.take(scores, corners.lower, axis=1 + axis) * low + np.take(scores, corners.upper, axis=1 + axis) * high
        )
    return scores


def decide(scores, decision: Decision, threshold=0.0):
    """Decide every voxel of `(c, z, y, x)`."""
    if decision.region_values is None:
        return scores.argmax(axis=0)
    mask = np.zeros(scores.shape[1:], dtype=np.int64)
    for region, value in zip(scores, decision.region_values, strict=True):
        mask[region > threshold] = value
    return mask


def place(mask, grid):
    """Put the mask of the box into the image, in the image's axes."""
    full = np.zeros(grid.full_shape, dtype=mask.dtype)
    full[tuple(slice(*limits) for limits in grid.box)] = mask
    return full.transpose(grid.transpose_backward)


def export_densely(scores, grid, decision):
    return place(decide(resample_linearly(scores, grid), decision), grid)


def cut_slabs(scores, axis, thickness):
    """Cut `(c, z, y, x)` into slabs; `thickness` is a number or a list that is repeated."""
    scores = torch.as_tensor(scores)
    thickness = [thickness] if isinstance(thickness, int) else list(thickness)
    start, index = 0, 0
    while start < scores.shape[1 + axis]:
        planes = min(thickness[index % len(thickness)], scores.shape[1 + axis] - start)
        yield Slab(start=start, axis=axis, scores=scores.narrow(1 + axis, start, planes))
        start, index = start + planes, index + 1
