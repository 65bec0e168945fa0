"""Decide the grid a case is resampled to, as nnU-Net decides it.

Shapes, spacings and axes are those of the case after `transpose_forward`.
"""

from __future__ import annotations

from collections.abc import Sequence

Shape = tuple[int, int, int]

# An axis whose steps are more than this many times the finest ones is resampled on its own.
ANISOTROPY_THRESHOLD = 3.0


def compute_target_shape(shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]) -> Shape:
    """Return the voxels along each axis at the target spacing.

    Halves are rounded to the even number, as nnU-Net does.
    """
    first, second, third = (
        round(float(step) / float(target) * size)
        for step, target, size in zip(spacing_mm, target_mm, shape, strict=True)
    )
    return first, second, third


def complete_target_spacing(spacing_mm: Sequence[float], target_mm: Sequence[float]) -> tuple[float, ...]:
    """Return a target spacing for every axis: a 2D configuration keeps the distance between slices."""
    missing = len(spacing_mm) - len(target_mm)
    return (*(float(step) for step in spacing_mm[:missing]), *(float(step) for step in target_mm))


def find_separate_axis(
    spacing_mm: Sequence[float],
    target_mm: Sequence[float],
    *,
    force: bool | None = None,
    threshold: float = ANISOTROPY_THRESHOLD,
) -> int | None:
    """Return the axis that is resampled on its own because its steps are coarse, or None.

    Args:
        spacing_mm: of the case.
        target_mm: of the plan.
        force: what the plan says under `force_separate_z`; None lets the spacing decide.
        threshold: ratio of the coarsest to the finest step above which a grid is anisotropic.
    """
    if force is not None:
        coarse = _find_coarsest(spacing_mm) if force else []
    elif max(spacing_mm) / min(spacing_mm) > threshold:
        coarse = _find_coarsest(spacing_mm)
    elif max(target_mm) / min(target_mm) > threshold:
        coarse = _find_coarsest(target_mm)
    else:
        coarse = []
    # Two coarse axes, as in spacing (0.24, 1.25, 1.25): no axis stands out.
    return coarse[0] if len(coarse) == 1 else None


def _find_coarsest(spacing_mm: Sequence[float]) -> list[int]:
    largest = max(spacing_mm)
    return [axis for axis, step in enumerate(spacing_mm) if largest / step == 1]
