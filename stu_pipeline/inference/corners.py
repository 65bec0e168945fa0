"""Which samples of the old grid surround each new voxel, along one axis, as tensors.

New voxels between the same two samples form a cell: what its corners agree on holds for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stu_pipeline.inference.case_grid import LINEAR, NEAREST, CaseGrid
from stu_pipeline.preparation.interpolation import find_corners, find_nearest

MAX_CELL_OUTPUTS = 8
"""A cell with more new voxels (an axis with one sample, a coarse one) is split, so that work comes in small pieces."""


@dataclass(frozen=True, slots=True, eq=False)
class AxisCorners:
    """The two old samples around each new one along an axis, and their weights; one entry per new sample."""

    lower: torch.Tensor
    upper: torch.Tensor
    lower_weight: torch.Tensor
    """Float32, rounded from double precision."""
    upper_weight: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class AxisCells:
    """The cells of an axis in order. Tables are `(outputs, cells)`; a short cell repeats its last output."""

    lower: torch.Tensor
    upper: torch.Tensor
    outputs: torch.Tensor
    lower_weight: torch.Tensor
    upper_weight: torch.Tensor
    cell_of_output: torch.Tensor
    spans: tuple[tuple[int, int], ...]
    """First new voxel of every cell, and the first after it."""
    corners: tuple[tuple[int, int], ...]
    """`lower` and `upper` as plain numbers."""


def find_axis_order(grid: CaseGrid, axis: int) -> int:
    """Return the order of the spline along an axis."""
    return grid.separate_order if axis == grid.separate_axis else grid.order


def is_pruned(grid: CaseGrid) -> bool:
    """Tell whether every new score is a weighted mean of old ones with weights of at least 0."""
    return all(find_axis_order(grid, axis) in (NEAREST, LINEAR) for axis in range(3))


def find_axis_corners(grid: CaseGrid, axis: int, device: torch.device) -> AxisCorners:
    """Return the corners of every new sample of an axis with order 0 or 1."""
    lower, upper, lower_weight, upper_weight = _find_corners(grid, axis)
    return AxisCorners(
        lower=_to_tensor(lower, device),
        upper=_to_tensor(upper, device),
        lower_weight=_to_tensor(lower_weight.astype(np.float32), device),
        upper_weight=_to_tensor(upper_weight.astype(np.float32), device),
    )


def find_axis_cells(grid: CaseGrid, axis: int, device: torch.device) -> AxisCells:
    """Return the cells of an axis with order 0 or 1; old samples that no new one needs are in none."""
    lower, upper, lower_weight, upper_weight = _find_corners(grid, axis)
    starts = _find_starts(lower, upper)
    stops = np.append(starts[1:], len(lower))
    counts = stops - starts
    outputs = starts + np.minimum(np.arange(counts.max())[:, None], counts - 1)
    return AxisCells(
        lower=_to_tensor(lower[starts], device),
        upper=_to_tensor(upper[starts], device),
        outputs=_to_tensor(outputs, device),
        lower_weight=_to_tensor(lower_weight[outputs].astype(np.float32), device),
        upper_weight=_to_tensor(upper_weight[outputs].astype(np.float32), device),
        cell_of_output=_to_tensor(np.repeat(np.arange(len(starts)), counts), device),
        spans=tuple(zip(starts.tolist(), stops.tolist(), strict=True)),
        corners=tuple(zip(lower[starts].tolist(), upper[starts].tolist(), strict=True)),
    )


def _find_corners(grid: CaseGrid, axis: int) -> tuple[npt.NDArray[Any], ...]:
    size_in, size_out = grid.network_shape[axis], grid.cropped_shape[axis]
    if find_axis_order(grid, axis) == NEAREST:
        nearest = find_nearest(size_in, size_out)
        return nearest, nearest, np.ones(size_out), np.zeros(size_out)
    corners = find_corners(size_in, size_out)
    return corners.lower, corners.upper, corners.lower_weight, corners.upper_weight


def _find_starts(lower: npt.NDArray[Any], upper: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the first new voxel of every cell."""
    starts = [0]
    for index in range(1, len(lower)):
        is_new = lower[index] != lower[index - 1] or upper[index] != upper[index - 1]
        if is_new or index - starts[-1] == MAX_CELL_OUTPUTS:
            starts.append(index)
    return np.asarray(starts)


def _to_tensor(values: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
