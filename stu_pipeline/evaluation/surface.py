"""Distances between the surfaces of two masks: HD95, ASSD and NSD (docs/reference/metrics.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, generate_binary_structure
from scipy.spatial import cKDTree

Mask = NDArray[np.bool_]
Distances = NDArray[np.float64]

# Spacings come from float32 headers: a distance of exactly one tolerance must not fail by rounding.
_ROUNDING = 1e-5
_PERCENTILE = 95.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceScores:
    """Surface metrics of one case and label.

    NaN when both masks are empty (nothing to measure); HD95 and ASSD are infinite and NSD is 0 when
    exactly one is.
    """

    hd95_mm: float
    assd_mm: float
    nsd: float


NOTHING_TO_MEASURE = SurfaceScores(hd95_mm=np.nan, assd_mm=np.nan, nsd=np.nan)
ONE_IS_EMPTY = SurfaceScores(hd95_mm=np.inf, assd_mm=np.inf, nsd=0.0)


def score_surfaces(
    reference: Mask,
    prediction: Mask,
    *,
    spacing_mm: tuple[float, float, float],
    tolerance_mm: float,
    flat_axes: tuple[int, ...] = (),
) -> SurfaceScores:
    """Score two masks by the distances between their surfaces.

    Args:
        reference: boolean `(z, y, x)`. What lies outside the array counts as background.
        prediction: boolean, same shape.
        spacing_mm: `(z, y, x)`.
        tolerance_mm: distance within which a surface voxel counts as met, for NSD.
        flat_axes: axes along which the image is one voxel thick; they have no surface.

    Returns:
        HD95, ASSD and NSD; see `SurfaceScores` for empty masks.
    """
    has_reference, has_prediction = bool(reference.any()), bool(prediction.any())
    if not has_reference and not has_prediction:
        return NOTHING_TO_MEASURE
    if not (has_reference and has_prediction):
        return ONE_IS_EMPTY
    to_prediction, to_reference = measure_distances(
        find_surface(reference, flat_axes=flat_axes), find_surface(prediction, flat_axes=flat_axes), spacing_mm
    )
    # The stand-in spacing of a flat axis is huge and means nothing.
    steps_mm = [step for axis, step in enumerate(spacing_mm) if axis not in flat_axes]
    limit = tolerance_mm + _ROUNDING * max(steps_mm, default=0.0)
    num_voxels = to_prediction.size + to_reference.size
    num_met = np.count_nonzero(to_prediction <= limit) + np.count_nonzero(to_reference <= limit)
    return SurfaceScores(
        hd95_mm=float(max(np.percentile(to_prediction, _PERCENTILE), np.percentile(to_reference, _PERCENTILE))),
        assd_mm=float((to_prediction.sum() + to_reference.sum()) / num_voxels),
        nsd=float(num_met / num_voxels),
    )


def find_surface(mask: Mask, *, flat_axes: tuple[int, ...] = ()) -> Mask:
    """Mark the voxels of a mask that share a face with the background or with the edge of the array.

    Args:
        mask: boolean `(z, y, x)`; an empty mask has an empty surface.
        flat_axes: axes whose faces do not count.
    """
    structure = generate_binary_structure(mask.ndim, 1)
    for axis in flat_axes:
        np.moveaxis(structure, axis, 0)[[0, 2]] = False
    inside: Mask = binary_erosion(mask, structure=structure, border_value=0)
    return mask & ~inside


def measure_distances(first: Mask, second: Mask, spacing_mm: tuple[float, float, float]) -> tuple[Distances, Distances]:
    """Measure each surface voxel's distance to the nearest voxel of the other surface, in mm.

    Args:
        first: surface, boolean `(z, y, x)`, not empty.
        second: surface, same shape, not empty.
        spacing_mm: `(z, y, x)`.

    Returns:
        Distances of the first surface to the second, and of the second to the first.
    """
    # A search tree costs what the surfaces cost; a distance transform costs the whole box.
    points = [np.argwhere(surface) * np.asarray(spacing_mm, dtype=np.float64) for surface in (first, second)]
    trees = [cKDTree(cloud, balanced_tree=False, compact_nodes=False) for cloud in points]
    return trees[1].query(points[0])[0], trees[0].query(points[1])[0]
