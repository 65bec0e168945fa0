"""Removing one connected component of a label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_SHARE = 0.15
"""Components of this share of the patch, or more, stay."""


def remove_components(volumes: Sequence[Tensor], choices: Sequence[float]) -> None:
    """Set one connected component of each volume to 0, in place; diagonal neighbours are connected.

    The volumes visit the host together, so the device is waited for once. Nothing happens to an empty volume or where
    all components are too large.

    Args:
        volumes: `(*spatial)` each, all of one shape and on one device, not 0 inside; may be none.
        choices: one per volume, from 0 to below 1, which component goes.
    """
    if not volumes:
        return
    masks = torch.stack([volume.bool() for volume in volumes]).cpu().numpy()
    for volume, mask, choice in zip(volumes, masks, choices, strict=True):
        found = find_component(mask, choice)
        if found is None:
            continue
        box, component = found
        volume[box].masked_fill_(torch.from_numpy(component).to(volume.device), 0)


def find_component(mask: NDArray[np.bool_], choice: float) -> tuple[tuple[slice, ...], NDArray[np.bool_]] | None:
    """Choose a component and return the box around the mask and the component inside the box, or None."""
    from skimage.measure import label as number_components

    if not mask.any():
        return None
    axes = range(mask.ndim)
    occupied = [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    box = tuple(slice(int(places[0]), int(places[-1]) + 1) for places in occupied)
    numbers = number_components(mask[box], connectivity=mask.ndim)
    small = np.flatnonzero(np.bincount(numbers.ravel())[1:] < mask.size * MAX_SHARE) + 1
    if not len(small):
        return None
    return box, numbers == small[int(choice * len(small))]
