"""Kernels of a 3D network in a 2D one and the other way round.

Kernels are `(output, input, z, y, x)` or `(output, input, y, x)`. The first spatial axis is the one that 2D
configurations slice along, in transposed order as in the plan.
"""

from __future__ import annotations

from typing import Literal

import torch

Change = Literal["flattened", "inflated"]

_FIRST_SPATIAL_AXIS = 2
CHANGES: dict[Change, str] = {
    "flattened": "3D kernels summed over z",
    "inflated": "2D kernels in the middle plane of 3D ones",
}
"""How each change reads in a table."""


def find_change(source_axes: int, target_axes: int) -> Change | None:
    """Name the change between two numbers of spatial axes; None where there is none."""
    if source_axes == target_axes:
        return None
    return "flattened" if source_axes > target_axes else "inflated"


def change_dimensions(kernel: torch.Tensor, change: Change | None) -> torch.Tensor:
    """Return a kernel that answers to a volume that is constant along z as the given one did.

    Flattened kernels are summed over z. Inflated ones get the 2D kernel in the middle plane and zeros around it,
    so that the network starts as the 2D one, applied slice by slice; repeating and dividing by 3 (as I3D does) would
    blur along z and lose a third at both ends of the patch, where the padding is 0. Biases and the weights of norms
    pass unchanged.
    """
    if change is None or kernel.ndim <= _FIRST_SPATIAL_AXIS:
        return kernel
    if change == "flattened":
        return kernel.double().sum(dim=_FIRST_SPATIAL_AXIS).to(kernel.dtype)
    depth = kernel.shape[_FIRST_SPATIAL_AXIS]
    inflated = kernel.new_zeros(*kernel.shape[:_FIRST_SPATIAL_AXIS], depth, *kernel.shape[_FIRST_SPATIAL_AXIS:])
    inflated[:, :, depth // 2] = kernel
    return inflated
