"""Resample scores to the cropped image's grid, all channels, a few planes at a time.

Linear and nearest interpolation need two planes of the network grid for a new one. A cubic spline along the walk
axis needs all of them: then the scores of the whole case are collected first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from stu_pipeline.inference.case_grid import CaseGrid
from stu_pipeline.inference.corners import find_axis_order
from stu_pipeline.inference.interpolated_volume import CUBIC, AxisStep, interpolate_volume, make_axis_step
from stu_pipeline.inference.slabs import Slab


def resample_slabs(
    slabs: Iterable[Slab], grid: CaseGrid, *, axis: int, max_planes: int | None = None
) -> Iterator[Slab]:
    """Yield float32 scores on the cropped image's grid, as slabs along the same axis.

    Args:
        slabs: scores on the network grid, in order, covering it; may be overwritten once the next is asked for.
        grid: of the case.
        axis: the walk axis.
        max_planes: thickness of a result, at most; None: all that a slab completes. A result may share memory with
            the slab where grids agree.
    """
    resampler = SlabResampler(grid, axis, max_planes)
    for slab in slabs:
        yield from resampler.add(slab)


def needs_whole_case(grid: CaseGrid, axis: int) -> bool:
    """Tell whether the scores of a whole case must be collected: a cubic spline along the walk axis.

    Also where the axis keeps its size, unless it is the separate one: results are clipped to the range of all scores.
    """
    if grid.network_shape == grid.cropped_shape or find_axis_order(grid, axis) != CUBIC:
        return False
    return axis != grid.separate_axis or grid.network_shape[axis] != grid.cropped_shape[axis]


class SlabResampler:
    """Takes slabs on the network grid and gives slabs on the cropped image's.

    It keeps the last plane of scores, or all with a cubic spline along the walk axis.
    """

    def __init__(self, grid: CaseGrid, axis: int, max_planes: int | None = None) -> None:
        self._grid, self._axis = grid, axis
        self._num_planes = grid.cropped_shape[axis]
        self._max_planes = max_planes or self._num_planes
        self._kept: torch.Tensor | None = None
        self._steps: list[AxisStep] = []
        self._num_done = 0

    def add(self, slab: Slab) -> Iterator[Slab]:
        """Yield what the slab completes; to be used up before the next one is added."""
        if self._grid.network_shape == self._grid.cropped_shape:
            yield from self._split(slab)
            return
        if not self._steps:
            self._steps = self._make_steps(slab.scores.device)
        if needs_whole_case(self._grid, self._axis):
            whole = self._collect(slab)
            if whole is not None:
                yield from self._resample_until(self._num_planes, whole, 0)
            return
        if self._kept is not None:
            # The new planes between two slabs need one plane of each.
            pair = torch.cat([self._kept, self._narrow(slab.scores, 0, 1).float()], dim=1 + self._axis)
            yield from self._resample_until(self._count_complete(slab.start + 1), pair, slab.start - 1)
        yield from self._resample_until(self._count_complete(slab.stop), slab.scores, slab.start)
        last = self._narrow(slab.scores, slab.stop - slab.start - 1, 1)
        self._kept = last.to(torch.float32, copy=True, memory_format=torch.contiguous_format)

    def _make_steps(self, device: torch.device) -> list[AxisStep]:
        steps = [make_axis_step(self._grid, axis, device) for axis in range(3)]
        if needs_whole_case(self._grid, self._axis) and steps[self._axis].operator is None:
            # It picks planes after all of them were looked at for their range.
            steps[self._axis] = AxisStep(self._axis, operator=torch.eye(self._num_planes, device=device))
        return steps

    def _split(self, slab: Slab) -> Iterator[Slab]:
        for start in range(slab.start, slab.stop, self._max_planes):
            scores = self._narrow(slab.scores, start - slab.start, min(self._max_planes, slab.stop - start))
            yield Slab(start=start, axis=self._axis, scores=scores.float())

    def _collect(self, slab: Slab) -> torch.Tensor | None:
        """Copy a slab to its place; return all scores once they are complete."""
        if self._kept is None:
            shape = (len(slab.scores), *self._grid.network_shape)
            self._kept = torch.empty(shape, dtype=torch.float32, device=slab.scores.device)
        self._narrow(self._kept, slab.start, slab.stop - slab.start).copy_(slab.scores)
        return self._kept if slab.stop == self._grid.network_shape[self._axis] else None

    def _count_complete(self, stop: int) -> int:
        """Count the new planes that need old ones before `stop` only."""
        corners = self._steps[self._axis].corners
        return stop if corners is None else int((corners.upper < stop).sum())

    def _resample_until(self, end: int, scores: torch.Tensor, start: int) -> Iterator[Slab]:
        while self._num_done < end:
            first, last = self._num_done, min(self._num_done + self._max_planes, end)
            low, high = self._find_range(first, last, start, start + scores.shape[1 + self._axis])
            part = self._narrow(scores, low - start, high - low)
            steps = [step.cut(first, last, low) if step.axis == self._axis else step for step in self._steps]
            shape = [last - first if axis == self._axis else size for axis, size in enumerate(self._grid.cropped_shape)]
            resampled = torch.empty((len(scores), *shape), dtype=torch.float32, device=scores.device)
            for channel, out in zip(part, resampled, strict=True):
                out.copy_(interpolate_volume(channel.float(), steps, self._grid))
            self._num_done = last
            yield Slab(start=first, axis=self._axis, scores=resampled)

    def _find_range(self, first: int, last: int, start: int, stop: int) -> tuple[int, int]:
        """Return the old planes between `start` and `stop` that the new planes `first` to `last` need."""
        step = self._steps[self._axis]
        if step.corners is not None:
            return int(step.corners.lower[first]), int(step.corners.upper[last - 1]) + 1
        if step.operator is None:
            return first, last
        if self._grid.separate_axis != self._axis:
            return start, stop  # clipping asks for the range of all of them
        used = step.operator[first:last].any(dim=0).nonzero()
        return int(used[0]), int(used[-1]) + 1

    def _narrow(self, scores: torch.Tensor, start: int, length: int) -> torch.Tensor:
        return scores.narrow(1 + self._axis, start, length)
