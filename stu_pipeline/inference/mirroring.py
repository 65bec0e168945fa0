"""Mirrored copies of tiles: which there are, how they are made and turned back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from stu_pipeline.datasets.laterality import SideSwap

MirroredAxes = tuple[int, ...]
"""The spatial axes of the patch, from 0, that one copy is mirrored along; () is the plain copy."""


def list_mirrorings(axes: Sequence[int]) -> list[MirroredAxes]:
    """List all combinations of axes, the plain copy first.

    >>> list_mirrorings([0, 2])
    [(), (0,), (2,), (0, 2)]
    """
    return [combination for count in range(len(axes) + 1) for combination in itertools.combinations(axes, count)]


def mirror_tiles(tiles: torch.Tensor, mirrored: MirroredAxes, swap: SideSwap | None) -> torch.Tensor:
    """Mirror tiles `(b, c, *patch)`; channels of a side change places where left becomes right.

    The plain copy is the same tensor, not a copy.
    """
    if not mirrored:
        return tiles
    if swap is not None and swap.applies_to(mirrored) and swap.inputs != tuple(range(len(swap.inputs))):
        tiles = tiles[:, list(swap.inputs)]
    return torch.flip(tiles, [axis + 2 for axis in mirrored])


def turn_back(outputs: torch.Tensor, mirrored: MirroredAxes, swap: SideSwap | None) -> torch.Tensor:
    """Turn what a network says of mirrored tiles, `(b, outputs, *patch)`, back to the side of the image."""
    if not mirrored:
        return outputs
    if swap is not None and swap.applies_to(mirrored):
        outputs = outputs[:, list(swap.outputs)]
    return torch.flip(outputs, [axis + 2 for axis in mirrored])
