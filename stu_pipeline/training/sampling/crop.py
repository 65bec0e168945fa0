"""Where a patch lies: which case, which voxel, which box; distributed as nnU-Net's loader does. No torch here.

nnU-Net chooses a box of the size of the initial patch (larger than the patch, to have something to rotate in),
so that the patch in its middle may reach the border of the image but not lie outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PlaceKey = int | tuple[int, ...]
Places = Mapping[PlaceKey, NDArray[np.signedinteger]]
"""Per label or region voxels `(n, 4)` of `(0, z, y, x)`; `n` may be 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CropRule:
    """How often a patch is centred on foreground, and what counts as annotated.

    The batch is that of all ranks together, before it is cut into micro-batches.
    """

    batch: int
    foreground_share: float = 0.33
    is_probabilistic: bool = False
    """Each sample by chance, with `foreground_share`; otherwise the last samples of every batch, rounded."""
    annotated_key: tuple[int, ...] | None = None
    """With an ignore label `(-1, 0, 1, ...)`: the key of all annotated voxels, where unforced patches are centred."""


def choose_case(generator: np.random.Generator, cases: Sequence[str]) -> str:
    """Choose a case; each is as likely, whatever was chosen before."""
    return cases[int(generator.integers(len(cases)))]


def choose_is_foreground(generator: np.random.Generator, slot: int, rule: CropRule) -> bool:
    """Choose whether the sample in a slot of the batch must show foreground."""
    chance = float(generator.random())  # always drawn: the rule does not move the draws after it
    if rule.is_probabilistic:
        return chance < rule.foreground_share
    return slot >= round(rule.batch * (1 - rule.foreground_share))


def choose_voxel(
    generator: np.random.Generator, places: Places, rule: CropRule, *, is_foreground: bool
) -> tuple[int, ...] | None:
    """Choose the voxel `(z, y, x)` a patch is centred on.

    For foreground a label or region is chosen first (each that the case has is as likely), then one of its voxels.

    Returns:
        The voxel; None where the box may lie anywhere, also because the case has nothing to centre on.

    Raises:
        KeyError: the case was preprocessed without the ignore label, `annotated_key` is missing.
    """
    if is_foreground:
        eligible = [key for key in places if len(places[key])]
        if len(eligible) > 1 and rule.annotated_key in eligible:
            eligible.remove(rule.annotated_key)
        if not eligible:
            return None
        voxels = places[eligible[int(generator.integers(len(eligible)))]]
    elif rule.annotated_key is not None:
        voxels = places[rule.annotated_key]
        if not len(voxels):
            return None
    else:
        return None
    return tuple(int(position) for position in voxels[int(generator.integers(len(voxels)))][1:])


def choose_corner(
    generator: np.random.Generator,
    shape: Sequence[int],
    *,
    patch: Sequence[int],
    initial_patch: Sequence[int],
    voxel: Sequence[int] | None,
) -> tuple[int, ...]:
    """Choose the first voxel of the initial patch, negative where it begins before the image.

    Args:
        generator: used only without a voxel.
        shape: of the image, `(z, y, x)`.
        patch: what the network sees; a slice is `(1, y, x)`.
        initial_patch: what is cropped, not smaller.
        voxel: what to centre on; None for anywhere.

    A box around a voxel is kept from beginning too early, but not from ending too late: so does nnU-Net.
    """
    lowest, highest = _find_bounds(shape, patch, initial_patch)
    if voxel is None:
        return tuple(int(generator.integers(low, high + 1)) for low, high in zip(lowest, highest, strict=True))
    wanted = (place - size // 2 for place, size in zip(voxel, initial_patch, strict=True))
    return tuple(max(low, place) for low, place in zip(lowest, wanted, strict=True))


def _find_bounds(
    shape: Sequence[int], patch: Sequence[int], initial_patch: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Find the lowest and the highest first voxel of a box, both so that the patch in its middle reaches the border."""
    lowest, highest = [], []
    for size, side, initial in zip(shape, patch, initial_patch, strict=True):
        margin = max(initial - side, initial - size)  # a box around a small image reaches over both its ends
        half = (margin + 1) // 2
        lowest.append(-half)
        highest.append(size + half - initial)
    return lowest, highest
