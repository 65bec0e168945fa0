"""The mask of a whole image, filled plane by plane in the axes of the plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stu_pipeline.inference.case_grid import CaseGrid, Decision

Mask = npt.NDArray[Any]

_MAX_BYTE = 255


class MaskCanvas:
    """A mask on the image's grid, zero where nothing was painted.

    Args:
        grid: of the case.
        decision: whose values are painted.
        axis: the walk axis, in the plan's axes.
    """

    def __init__(self, grid: CaseGrid, decision: Decision, axis: int) -> None:
        shape = [grid.full_shape[plan_axis] for plan_axis in grid.transpose_backward]
        self._mask = np.zeros(shape, dtype=choose_mask_type(decision))
        box = tuple(slice(start, stop) for start, stop in grid.box)
        # Views: what is written to planes along the walk axis lands in the mask.
        forward = np.argsort(grid.transpose_backward)
        self._planes = np.moveaxis(self._mask.transpose(forward)[box], axis, 0)
        self._num_painted = 0

    @property
    def num_painted(self) -> int:
        """Planes painted so far."""
        return self._num_painted

    def paint(self, labels: torch.Tensor) -> None:
        """Paint the next planes, `(planes, p, q)` of values of the mask; the other two axes in the plan's order."""
        stop = self._num_painted + len(labels)
        self._planes[self._num_painted : stop] = labels.cpu().numpy()
        self._num_painted = stop

    def finish(self) -> Mask:
        """Return the mask `(z, y, x)` on the image's grid.

        Raises:
            ValueError: not every plane was painted.
        """
        if self._num_painted != len(self._planes):
            raise ValueError(f"{self._num_painted} of {len(self._planes)} planes were painted")
        return self._mask


def choose_mask_type(decision: Decision) -> type[np.uint8] | type[np.uint16]:
    """Return the smallest type that holds every value of the mask."""
    largest = decision.num_outputs - 1 if decision.region_values is None else max(decision.region_values, default=0)
    return np.uint8 if largest <= _MAX_BYTE else np.uint16


def list_code_values(decision: Decision, device: torch.device) -> torch.Tensor:
    """Return the value of the mask for every code: of channel `c`, or with regions of none and of region `c - 1`."""
    values = range(decision.num_outputs) if decision.region_values is None else (0, *decision.region_values)
    dtype = torch.uint8 if choose_mask_type(decision) is np.uint8 else torch.int32
    return torch.tensor(list(values), dtype=dtype, device=device)
