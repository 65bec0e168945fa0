"""Interpolate one channel of scores along all axes, to all or some of the new planes along one of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stu_pipeline.inference.case_grid import NEAREST, CaseGrid
from stu_pipeline.inference.corners import AxisCorners, find_axis_corners, find_axis_order
from stu_pipeline.preparation.interpolation import make_operator

CUBIC = 3


@dataclass(frozen=True, slots=True, eq=False)
class AxisStep:
    """How scores are interpolated along one axis: from two corners, or with a matrix `(new, old)`."""

    axis: int
    corners: AxisCorners | None = None
    operator: torch.Tensor | None = None
    is_nearest: bool = False

    def cut(self, first: int, last: int, low: int) -> AxisStep:
        """Keep the new samples `first` to `last`, for a volume whose first plane is the old sample `low`."""
        corners, operator = self.corners, self.operator
        if corners is not None:
            corners = AxisCorners(
                lower=corners.lower[first:last] - low,
                upper=corners.upper[first:last] - low,
                lower_weight=corners.lower_weight[first:last],
                upper_weight=corners.upper_weight[first:last],
            )
        if operator is not None:
            operator = operator[first:last, low:]
        return AxisStep(self.axis, corners, operator, self.is_nearest)

    def apply(self, volume: torch.Tensor) -> torch.Tensor:
        """Interpolate `(z, y, x)` float32: two products and a sum, each rounded, so that the result is exact."""
        if self.operator is not None:
            columns = self.operator[:, : volume.shape[self.axis]]
            product: torch.Tensor = torch.tensordot(volume, columns, dims=([self.axis], [1]))
            return product.movedim(-1, self.axis)
        if self.corners is None:
            return volume
        lower = volume.index_select(self.axis, self.corners.lower)
        if self.is_nearest:
            return lower
        shape = [-1 if axis == self.axis else 1 for axis in range(3)]
        upper = volume.index_select(self.axis, self.corners.upper)
        lower *= self.corners.lower_weight.view(shape)
        upper *= self.corners.upper_weight.view(shape)
        return lower.add_(upper)


def make_axis_step(grid: CaseGrid, axis: int, device: torch.device) -> AxisStep:
    """Return the step of an axis; one without corners and matrix where its sizes agree."""
    size_in, size_out, order = grid.network_shape[axis], grid.cropped_shape[axis], find_axis_order(grid, axis)
    if size_in == size_out:
        return AxisStep(axis)
    if order == CUBIC:
        # A copy: the matrix is shared and read-only.
        operator = torch.tensor(make_operator(size_in, size_out, order), dtype=torch.float32, device=device)
        return AxisStep(axis, operator=operator)
    return AxisStep(axis, corners=find_axis_corners(grid, axis, device), is_nearest=order == NEAREST)


def interpolate_volume(volume: torch.Tensor, steps: list[AxisStep], grid: CaseGrid) -> torch.Tensor:
    """Interpolate `(z, y, x)` float32 along x, then y, then z.

    With cubic splines the separate axis comes last, and results are clipped to the range of the volume, with a
    separate axis to that of each slice before it is combined with others, as nnU-Net does it.

    Args:
        volume: all slices along the separate axis that the steps need; all old samples along other cubic axes.
        steps: one per axis.
        grid: of the case.
    """
    axes = [2, 1, 0]
    if grid.order != CUBIC:
        for axis in axes:
            volume = steps[axis].apply(volume)
        return volume
    dims = [axis for axis in axes if axis != grid.separate_axis]
    low, high = volume.amin(dims, keepdim=True), volume.amax(dims, keepdim=True)
    for axis in dims:
        volume = steps[axis].apply(volume)
    volume = torch.clamp(volume, low, high)
    return volume if grid.separate_axis is None else steps[grid.separate_axis].apply(volume)
