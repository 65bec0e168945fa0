"""Scores of one case: overlap counts, Dice, IoU, volumes and surface metrics per label.

Definitions and empty cases: docs/reference/metrics.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from stu_pipeline.evaluation.labels import Label
from stu_pipeline.evaluation.surface import NOTHING_TO_MEASURE, SurfaceScores, score_surfaces

LabelMap = NDArray[np.integer]
Box = tuple[slice, ...]

_SLAB_VOXELS = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScores:
    """Every score of one label in one case.

    Counts are voxels; ignored voxels are in none of them. `dice` and `iou` are NaN when reference and
    prediction are both empty and 0 when exactly one is; for `surface` see `SurfaceScores`. `surface`
    is None when it was not asked for.
    """

    dice: float
    iou: float
    tp: int
    fp: int
    fn: int
    tn: int
    volume_ref_ml: float
    volume_pred_ml: float
    surface: SurfaceScores | None = None

    @property
    def n_ref(self) -> int:
        """Voxels of the label in the reference."""
        return self.tp + self.fn

    @property
    def n_pred(self) -> int:
        """Voxels of the label in the prediction."""
        return self.tp + self.fp


def score_case(
    reference: LabelMap,
    prediction: LabelMap,
    *,
    labels: Sequence[Label],
    spacing_mm: tuple[float, float, float],
    ignore: int | None = None,
    tolerance_mm: float | None = None,
) -> tuple[LabelScores, ...]:
    """Score a prediction against its reference, label by label.

    Args:
        reference: label values `(z, y, x)`, 0 to 65535.
        prediction: label values, same shape.
        labels: labels and regions to score.
        spacing_mm: `(z, y, x)`.
        ignore: voxels with this value in the reference are excluded.
        tolerance_mm: for NSD; None leaves the surface metrics out.

    Returns:
        One `LabelScores` per entry of `labels`, in that order.
    """
    values = np.union1d(np.union1d(find_values(reference), find_values(prediction)), [0])
    reference, prediction = index_values(reference, values), index_values(prediction, values)
    counts = count_pairs(reference, prediction, num_values=len(values))
    if ignore is not None and ignore in values:
        _leave_out(int(np.searchsorted(values, ignore)), reference, prediction, counts)
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    boxes = None if tolerance_mm is None else _find_boxes(reference, prediction, num_values=len(values))
    scores = []
    for label in labels:
        member = np.isin(values, label.values)
        surface = None
        if boxes is not None and tolerance_mm is not None:
            box = _join_boxes([boxes[position] for position in np.flatnonzero(member)])
            surface = _score_label_surface(
                reference, prediction, member=member, box=box, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm
            )
        scores.append(score_counts(counts, member, voxel_ml=voxel_ml, surface=surface))
    return tuple(scores)


def score_empty_label(*, num_voxels: int, with_surface: bool) -> LabelScores:
    """Make the scores of a label that is in neither map of a case of `num_voxels` scored voxels."""
    return _build_scores(0, 0, 0, num_voxels, voxel_ml=0.0, surface=NOTHING_TO_MEASURE if with_surface else None)


def score_counts(
    counts: NDArray[np.int64],
    member: NDArray[np.bool_],
    *,
    voxel_ml: float,
    surface: SurfaceScores | None = None,
) -> LabelScores:
    """Turn pair counts into the scores of one label or region.

    Args:
        counts: voxels per (reference value, prediction value), from `count_pairs`.
        member: which values belong to the label, boolean, one per value.
        voxel_ml: volume of one voxel.
        surface: surface scores to carry along.
    """
    tp = int(counts[np.ix_(member, member)].sum())
    fn = int(counts[member].sum()) - tp
    fp = int(counts[:, member].sum()) - tp
    return _build_scores(tp, fp, fn, int(counts.sum()) - tp - fp - fn, voxel_ml=voxel_ml, surface=surface)


def find_values(label_map: LabelMap) -> NDArray[np.int64]:
    """Return the distinct values of a label map (0 to 65535), ascending, without sorting its voxels."""
    high = int(label_map.max())
    counts = np.zeros(high + 1, dtype=np.int64)
    for (slab,) in _iterate_slabs(label_map):
        counts += np.bincount(slab, minlength=high + 1)
    return np.flatnonzero(counts)


def index_values(label_map: LabelMap, values: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Replace each label value by its position in `values` (ascending, complete, none negative)."""
    table = np.zeros(int(values[-1]) + 1, dtype=np.uint16)
    table[values] = np.arange(len(values), dtype=np.uint16)
    return table[label_map]


def count_pairs(reference: NDArray[np.uint16], prediction: NDArray[np.uint16], *, num_values: int) -> NDArray[np.int64]:
    """Count the voxels of every (reference, prediction) pair of positions in one pass.

    Returns:
        Counts `(num_values, num_values)`, rows being the reference.
    """
    counts = np.zeros(num_values * num_values, dtype=np.int64)
    for first, second in _iterate_slabs(reference, prediction):
        counts += np.bincount(first * num_values + second, minlength=counts.size)
    return counts.reshape(num_values, num_values)


def _leave_out(
    position: int, reference: NDArray[np.uint16], prediction: NDArray[np.uint16], counts: NDArray[np.int64]
) -> None:
    """Turn ignored voxels into background in both maps and take them out of the counts, in place."""
    is_ignored = reference == position
    reference[is_ignored] = 0
    prediction[is_ignored] = 0
    counts[position] = 0


def _build_scores(tp: int, fp: int, fn: int, tn: int, *, voxel_ml: float, surface: SurfaceScores | None) -> LabelScores:
    union = tp + fp + fn
    return LabelScores(
        dice=2 * tp / (union + tp) if union else float("nan"),
        iou=tp / union if union else float("nan"),
        tp=tp,
        fp=fp,
        fn=fn,
        tn=tn,
        volume_ref_ml=(tp + fn) * voxel_ml,
        volume_pred_ml=(tp + fp) * voxel_ml,
        surface=surface,
    )


def _score_label_surface(
    reference: NDArray[np.uint16],
    prediction: NDArray[np.uint16],
    *,
    member: NDArray[np.bool_],
    box: Box | None,
    spacing_mm: tuple[float, float, float],
    tolerance_mm: float,
) -> SurfaceScores:
    if box is None:
        return NOTHING_TO_MEASURE
    return score_surfaces(
        member[reference[box]],
        member[prediction[box]],
        spacing_mm=spacing_mm,
        tolerance_mm=tolerance_mm,
        flat_axes=tuple(axis for axis, size in enumerate(reference.shape) if size == 1),
    )


def _iterate_slabs(*arrays: NDArray[np.integer]) -> Iterator[tuple[NDArray[np.intp], ...]]:
    """Yield the arrays flat and in step, a few million voxels at a time, to bound the memory."""
    shape = arrays[0].shape
    thickness = max(1, _SLAB_VOXELS * shape[0] // max(1, arrays[0].size))
    for start in range(0, shape[0], thickness):
        yield tuple(array[start : start + thickness].astype(np.intp).ravel() for array in arrays)


def _find_boxes(reference: NDArray[np.uint16], prediction: NDArray[np.uint16], *, num_values: int) -> list[Box | None]:
    """Find the box of each position over both maps; None for the background and for what is absent."""
    found = [find_objects(label_map, max_label=num_values - 1) for label_map in (reference, prediction)]
    return [None, *(_join_boxes(pair) for pair in zip(*found, strict=True))] if num_values > 1 else [None]


def _join_boxes(boxes: Sequence[Box | None]) -> Box | None:
    present = [box for box in boxes if box is not None]
    if not present:
        return None
    return tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts))
        for parts in zip(*present, strict=True)
    )
