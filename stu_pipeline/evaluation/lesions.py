"""Detection of lesions: which connected components of a label were found (docs/reference/metrics.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import generate_binary_structure
from scipy.ndimage import label as number_components
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stu_pipeline.errors import UsageError

Mask = NDArray[np.bool_]
Components = NDArray[np.int32]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionRule:
    """What a lesion is and when it counts as found."""

    min_iou: float = 0.0
    """A predicted lesion may match a reference lesion when their IoU is above this; 0: when they share a voxel."""
    min_size_mm3: float = 0.0
    """Smaller components are no lesions, in the reference and in the prediction alike."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if not 0 <= self.min_iou < 1:
            raise UsageError(f"the IoU of a found lesion must be at least 0 and below 1, got '{self.min_iou}'")
        if not (math.isfinite(self.min_size_mm3) and self.min_size_mm3 >= 0):
            raise UsageError(f"the size of a lesion must be at least 0 mm3, got '{self.min_size_mm3}'")


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionScores:
    """How well the lesions of one label in one case were found. A ratio of nothing to nothing is NaN."""

    tp: int
    """Pairs of a reference lesion and the predicted lesion that found it."""
    fp: int
    """Predicted lesions that found none."""
    fn: int
    """Reference lesions that were not found."""
    dice: float
    """Mean Dice of the pairs; NaN without any."""

    @property
    def precision(self) -> float:
        """Share of the predicted lesions that found one; NaN without predicted lesions."""
        return _divide(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the reference lesions that were found; NaN without reference lesions."""
        return _divide(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN without lesions on either side, 0 without a pair."""
        return _divide(2 * self.tp, 2 * self.tp + self.fp + self.fn)


NO_LESIONS = LesionScores(tp=0, fp=0, fn=0, dice=math.nan)


def score_lesions(reference: Mask, prediction: Mask, *, voxel_mm3: float, rule: LesionRule) -> LesionScores:
    """Match the lesions of two masks one to one, and count what is left over.

    Lesions are connected components, across faces, edges and corners. Of all matchings the one with the most pairs
    is taken, and among those the one with the largest sum of IoU.

    Args:
        reference: boolean `(z, y, x)`.
        prediction: boolean, same shape.
        voxel_mm3: volume of one voxel.
        rule: what counts as a lesion and as found.

    Returns:
        The scores; `NO_LESIONS` for two masks without lesions.
    """
    first, sizes = _find_lesions(reference, voxel_mm3=voxel_mm3, rule=rule)
    second, other_sizes = _find_lesions(prediction, voxel_mm3=voxel_mm3, rule=rule)
    rows, columns, overlaps = _count_overlaps(first, second, num_columns=len(other_sizes))
    unions = sizes[rows] + other_sizes[columns] - overlaps
    is_allowed = overlaps > rule.min_iou * unions
    rows, columns, overlaps = rows[is_allowed], columns[is_allowed], overlaps[is_allowed]
    chosen = _choose_pairs(rows, columns, overlaps / unions[is_allowed], shape=(len(sizes), len(other_sizes)))
    dice = 2 * overlaps[chosen] / (sizes[rows[chosen]] + other_sizes[columns[chosen]])
    return LesionScores(
        tp=len(chosen),
        fp=len(other_sizes) - len(chosen),
        fn=len(sizes) - len(chosen),
        dice=float(dice.mean()) if len(chosen) else math.nan,
    )


def _find_lesions(mask: Mask, *, voxel_mm3: float, rule: LesionRule) -> tuple[Components, Counts]:
    """Number the lesions of a mask from 1, 0 being everything else; return that and their voxels."""
    components = np.zeros(mask.shape, dtype=np.int32)
    number_components(mask, structure=generate_binary_structure(mask.ndim, mask.ndim), output=components)
    sizes = _count_values(components)[1:]
    # Spacings come from float32 headers: a lesion of exactly the smallest size must not fail by rounding.
    is_lesion = sizes * voxel_mm3 >= rule.min_size_mm3 * (1 - 1e-6)
    if not is_lesion.all():
        table = np.zeros(len(sizes) + 1, dtype=np.int32)
        table[1:][is_lesion] = np.arange(1, np.count_nonzero(is_lesion) + 1)
        for plane in components:
            plane[...] = table[plane]
    return components, sizes[is_lesion]


def _count_values(components: Components) -> Counts:
    counts = np.zeros(int(components.max(initial=0)) + 1, dtype=np.int64)
    for plane in components:
        counts += np.bincount(plane.ravel(), minlength=len(counts))
    return counts


def _count_overlaps(first: Components, second: Components, *, num_columns: int) -> tuple[Counts, Counts, Counts]:
    """Count the voxels that each pair of lesions shares.

    Returns:
        Reference lesions and predicted lesions (both from 0) and the voxels of each pair that shares any.
    """
    is_both = (first > 0) & (second > 0)
    pairs = (first[is_both].astype(np.int64) - 1) * max(num_columns, 1) + second[is_both] - 1
    keys, overlaps = np.unique(pairs, return_counts=True)
    rows, columns = np.divmod(keys, max(num_columns, 1))
    return rows, columns, overlaps.astype(np.int64)


def _choose_pairs(rows: Counts, columns: Counts, ious: NDArray[np.float64], *, shape: tuple[int, int]) -> Counts:
    """Choose the pairs of the best one-to-one matching; returns their positions in the given lists."""
    if not rows.size:
        return np.zeros(0, dtype=np.int64)
    num_nodes = sum(shape)
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, shape[0] + columns)), shape=(num_nodes, num_nodes))
    _, groups = connected_components(graph, directed=False)
    order = np.argsort(groups[rows], kind="stable")
    chosen = []
    # A group holds the lesions that overlap each other, directly or in a chain: its matrix is small.
    for edges in np.split(order, np.flatnonzero(np.diff(groups[rows][order])) + 1):
        chosen.append(edges if len(edges) == 1 else _match_group(rows[edges], columns[edges], ious[edges], edges))
    return np.sort(np.concatenate(chosen))


def _match_group(rows: Counts, columns: Counts, ious: NDArray[np.float64], edges: Counts) -> Counts:
    _, row = np.unique(rows, return_inverse=True)
    _, column = np.unique(columns, return_inverse=True)
    shape = (int(row.max()) + 1, int(column.max()) + 1)
    # One pair more outweighs every sum of IoU.
    worth = np.zeros(shape)
    worth[row, column] = ious + min(shape)
    edge_of = np.full(shape, -1, dtype=np.int64)
    edge_of[row, column] = edges
    matched: Counts = edge_of[linear_sum_assignment(worth, maximize=True)]
    return matched[matched >= 0]


def _divide(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
