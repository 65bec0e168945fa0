"""Distances between the surfaces of two masks: HD95, ASSD and NSD (docs/reference/metrics.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stu_pipeline.evaluation.surface_elements import Elements, find_elements, list_areas

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]

# Spacings come from float32 headers: a distance of exactly one tolerance must not fail by rounding.
_ROUNDING = 1e-5
_PERCENTILE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceScores:
    """Surface metrics of one case and label.

    NaN when both masks are empty (nothing to measure); the distances are infinite and NSD is 0 when
    exactly one is.
    """

    hd95_mm: float
    assd_mm: float
    nsd: float
    mean_ref_to_pred_mm: float
    """Mean distance of the reference's surface from the prediction's, by area."""
    mean_pred_to_ref_mm: float
    """Mean distance of the prediction's surface from the reference's, by area."""


NOTHING_TO_MEASURE = SurfaceScores(
    hd95_mm=np.nan, assd_mm=np.nan, nsd=np.nan, mean_ref_to_pred_mm=np.nan, mean_pred_to_ref_mm=np.nan
)
ONE_IS_EMPTY = SurfaceScores(
    hd95_mm=np.inf, assd_mm=np.inf, nsd=0.0, mean_ref_to_pred_mm=np.inf, mean_pred_to_ref_mm=np.inf
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceGrid:
    """The grid that surfaces are measured on: that of the case, or of its one slice.

    Args:
        shape: voxels `(z, y, x)`, or `(y, x)` for a flat map.
        spacing_mm: as long as `shape`.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]

    def locate_cells(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """Turn flat indices of cells into coordinates `(cells, axes)`."""
        return np.stack(np.unravel_index(cells, tuple(size + 1 for size in self.shape)), axis=-1)


def choose_surface_grid(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> SurfaceGrid:
    """Choose what surfaces are measured on: a map that is one voxel thick has contours, not surfaces.

    Args:
        shape: voxels `(z, y, x)`.
        spacing_mm: `(z, y, x)`.

    Returns:
        The grid without its first axis of one voxel; the whole grid if there is none.
    """
    kept = [axis for axis in range(len(shape)) if axis != (shape.index(1) if 1 in shape else None)]
    return SurfaceGrid(
        shape=tuple(shape[axis] for axis in kept), spacing_mm=tuple(float(spacing_mm[axis]) for axis in kept)
    )


def score_surfaces(
    reference: Mask, prediction: Mask, *, spacing_mm: tuple[float, float, float], tolerance_mm: float
) -> SurfaceScores:
    """Score two masks by the distances between their surfaces.

    Args:
        reference: boolean `(z, y, x)`. What lies outside the array counts as background. Where an axis is one voxel
            long, the masks are flat and have contours.
        prediction: boolean, same shape.
        spacing_mm: `(z, y, x)`.
        tolerance_mm: distance within which a surface element counts as met, for NSD.

    Returns:
        HD95, ASSD and NSD; see `SurfaceScores` for empty masks.
    """
    grid = choose_surface_grid(reference.shape, spacing_mm)
    member = [np.array([False, True])]
    (first,), (second,) = (
        find_elements(mask.reshape(grid.shape).astype(np.uint16), member) for mask in (reference, prediction)
    )
    return score_elements(first, second, grid=grid, tolerance_mm=tolerance_mm)


def score_elements(
    reference: Elements, prediction: Elements, *, grid: SurfaceGrid, tolerance_mm: float
) -> SurfaceScores:
    """Score two surfaces that `find_elements` found in maps of one grid.

    Args:
        reference: surface of the reference; no elements stand for an empty mask.
        prediction: surface of the prediction.
        grid: the grid of both.
        tolerance_mm: distance within which a surface element counts as met, for NSD.
    """
    if not reference.cells.size and not prediction.cells.size:
        return NOTHING_TO_MEASURE
    if not (reference.cells.size and prediction.cells.size):
        return ONE_IS_EMPTY
    areas = list_areas(grid.spacing_mm)
    sides = [
        (measure_distances(one.cells, other.cells, grid), areas[one.codes])
        for one, other in ((reference, prediction), (prediction, reference))
    ]
    limit = tolerance_mm + _ROUNDING * max(grid.spacing_mm)
    totals = [float(area.sum()) for _, area in sides]
    sums = [float((distance * area).sum()) for distance, area in sides]
    met = sum(float(area[distance <= limit].sum()) for distance, area in sides)
    return SurfaceScores(
        hd95_mm=max(_find_percentile(distance, area) for distance, area in sides),
        assd_mm=sum(sums) / sum(totals),
        nsd=met / sum(totals),
        mean_ref_to_pred_mm=sums[0] / totals[0],
        mean_pred_to_ref_mm=sums[1] / totals[1],
    )


def measure_distances(cells: NDArray[np.int64], others: NDArray[np.int64], grid: SurfaceGrid) -> Values:
    """Measure the distance of each cell to the nearest of the others, between their centres, in mm.

    Args:
        cells: flat indices in the grid of cells, ascending.
        others: the same, not empty.
        grid: the grid of both.
    """
    distances = np.zeros(len(cells))
    nearest = np.minimum(np.searchsorted(others, cells), len(others) - 1)
    is_apart = others[nearest] != cells
    if is_apart.any():
        # A search tree costs what the surfaces cost; a distance transform costs the whole box.
        spacing_mm = np.asarray(grid.spacing_mm)
        points, targets = grid.locate_cells(cells[is_apart]), grid.locate_cells(others)
        tree = cKDTree(targets * spacing_mm, balanced_tree=False, compact_nodes=False)
        _, nearest = tree.query(points * spacing_mm)
        # From whole steps, as distance transforms do: a distance of one tolerance must not depend on where it is.
        distances[is_apart] = np.sqrt((((points - targets[nearest]) * spacing_mm) ** 2).sum(axis=-1))
    return distances


def _find_percentile(distances: Values, areas: Values) -> float:
    """Find the smallest distance that 95 % of the area keeps to."""
    order = np.lexsort((areas, distances))
    shares = np.cumsum(areas[order]) / areas.sum()
    index = min(int(np.searchsorted(shares, _PERCENTILE)), len(distances) - 1)
    return float(distances[order[index]])
