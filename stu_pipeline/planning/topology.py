"""Strides and patch of an STU-Net: always five poolings, so that weights fit every plan.

A stride list has six entries, the first all ones; entry n divides the size between stage n - 1 and n.
Axes are those of the patch: (z, y, x) after transposing, or (y, x).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from stu_pipeline.networks.scales import NUM_STAGES

Strides = tuple[tuple[int, ...], ...]
Patch = tuple[int, ...]

NUM_POOLINGS = NUM_STAGES - 1
# nnU-Net's rules: an axis is halved while at least this many voxels remain ...
_MIN_EDGE_VOXELS = 4
# ... and while its spacing is below this multiple of the finest axis that can still be halved.
_MAX_SPACING_RATIO = 2


def fit_strides(strides: Sequence[Sequence[int]]) -> Strides:
    """Make exactly five poolings of any planned stride list: cut what is deeper, pad with ones what is shallower.

    Args:
        strides: nnU-Net's list with its leading entry of ones; at least that entry.

    >>> fit_strides([[1, 1], [2, 2], [1, 2]])
    ((1, 1), (2, 2), (1, 2), (1, 1), (1, 1), (1, 1))
    """
    kept = [tuple(int(step) for step in stride) for stride in strides[:NUM_STAGES]]
    padding = [(1,) * len(kept[0])] * (NUM_STAGES - len(kept))
    return tuple(kept + padding)


def choose_strides(spacing_mm: Sequence[float], patch_voxels: Sequence[int]) -> Strides:
    """Choose where to pool for a spacing and a patch, by nnU-Net's rules, as five poolings.

    Axes that are still fine and long enough are halved together; a lone axis needs twelve voxels.
    """
    spacing = [float(step) for step in spacing_mm]
    size = [int(voxels) for voxels in patch_voxels]
    strides = [(1,) * len(size)]
    while len(strides) < NUM_STAGES:
        axes = _find_axes_to_pool(spacing, size)
        if not axes:
            break
        for axis in axes:
            spacing[axis] *= 2
            size[axis] = math.ceil(size[axis] / 2)
        strides.append(tuple(2 if axis in axes else 1 for axis in range(len(size))))
    return fit_strides(strides)


def multiply_strides(strides: Sequence[Sequence[int]]) -> Patch:
    """Multiply the strides per axis: a patch must be a multiple of it.

    >>> multiply_strides([[1, 1], [2, 2], [1, 2]])
    (2, 4)
    """
    return tuple(math.prod(axis) for axis in zip(*strides, strict=True))


def round_patch_up(patch_voxels: Sequence[int], strides: Sequence[Sequence[int]]) -> Patch:
    """Round a patch up to the next multiple of what the strides need.

    >>> round_patch_up([33, 40], [[1, 1], [2, 2], [2, 2], [2, 2]])
    (40, 40)
    """
    divisors = multiply_strides(strides)
    return tuple(math.ceil(voxels / step) * step for voxels, step in zip(patch_voxels, divisors, strict=True))


def widen_lone_voxel(patch_voxels: Patch, strides: Sequence[Sequence[int]]) -> Patch:
    """Double a patch whose deepest feature map would be a single voxel: instance normalisation needs two.

    >>> widen_lone_voxel((1, 1), [[1, 1], [1, 1]]), widen_lone_voxel((1, 2), [[1, 1], [1, 1]])
    ((2, 2), (1, 2))
    """
    is_lone = tuple(patch_voxels) == multiply_strides(strides)
    return tuple(2 * voxels for voxels in patch_voxels) if is_lone else patch_voxels


def shrink_patch(
    patch_voxels: Patch, spacing_mm: Sequence[float], median_shape: Sequence[float], min_edge_voxels: int
) -> tuple[Patch, Strides] | None:
    """Take one step off the axis that is largest relative to the median image, as nnU-Net does.

    Args:
        patch_voxels: current patch.
        spacing_mm: target spacing of the configuration.
        median_shape: median image in voxels at that spacing.
        min_edge_voxels: no axis goes below it; an axis that is shorter already stays.

    Returns:
        The smaller patch and the strides that go with it, or None when no axis may shrink.
    """
    for axis in _sort_by_excess(patch_voxels, median_shape):
        smaller = list(patch_voxels)
        # The step that a slightly smaller patch needs: a long axis loses a pooling before it is halved
        # (256 -> 224, not 192).
        smaller[axis] -= multiply_strides(choose_strides(spacing_mm, patch_voxels))[axis]
        step = multiply_strides(choose_strides(spacing_mm, [max(1, voxels) for voxels in smaller]))[axis]
        smaller[axis] = patch_voxels[axis] - step
        if smaller[axis] < min_edge_voxels:
            continue
        strides = choose_strides(spacing_mm, smaller)
        rounded = round_patch_up(smaller, strides)
        if math.prod(rounded) < math.prod(patch_voxels):
            return rounded, strides
    return None


def shrink_patch_on(
    strides: Strides, patch_voxels: Patch, median_shape: Sequence[float], min_edge_voxels: int
) -> tuple[Patch, Strides] | None:
    """Take one step off the axis that is largest relative to the median image, under strides that stay.

    >>> shrink_patch_on(((1, 1), (2, 4)), (8, 8), (8.0, 4.0), 4)
    ((8, 4), ((1, 1), (2, 4)))
    """
    for axis in _sort_by_excess(patch_voxels, median_shape):
        smaller = list(patch_voxels)
        smaller[axis] -= multiply_strides(strides)[axis]
        is_lone = tuple(smaller) == multiply_strides(strides)
        if smaller[axis] >= max(min_edge_voxels, 1) and not is_lone:
            return tuple(smaller), strides
    return None


def _sort_by_excess(patch_voxels: Patch, median_shape: Sequence[float]) -> list[int]:
    return sorted(range(len(patch_voxels)), key=lambda axis: -patch_voxels[axis] / max(median_shape[axis], 1e-6))


def _find_axes_to_pool(spacing: Sequence[float], size: Sequence[int]) -> list[int]:
    long_enough = [axis for axis in range(len(size)) if size[axis] >= 2 * _MIN_EDGE_VOXELS]
    if not long_enough:
        return []
    finest = min(spacing[axis] for axis in long_enough)
    axes = [axis for axis in long_enough if spacing[axis] / finest < _MAX_SPACING_RATIO]
    if len(axes) == 1 and size[axes[0]] < 3 * _MIN_EDGE_VOXELS:
        return []
    return axes
