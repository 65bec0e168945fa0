"""Scores of one case: overlap counts, Dice, IoU, volumes, surface metrics and lesions found, per label.

Definitions and empty cases: docs/reference/metrics.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from stu_pipeline.evaluation.labels import Label
from stu_pipeline.evaluation.lesions import NO_LESIONS, LesionRule, LesionScores, score_lesions
from stu_pipeline.evaluation.surface import NOTHING_TO_MEASURE, SurfaceScores, choose_surface_grid, score_elements
from stu_pipeline.evaluation.surface_elements import find_elements

LabelMap = NDArray[np.integer]
Box = tuple[slice, ...]

_SLAB_VOXELS = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScores:
    """Every score of one label in one case.

    Counts are voxels; ignored voxels are in none of them. `dice` and `iou` are NaN when reference and
    prediction are both empty and 0 when exactly one is; for `surface` see `SurfaceScores`, for `lesions`
    `LesionScores`. Either is None when it was not asked for.
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
    lesions: LesionScores | None = None

    @property
    def n_ref(self) -> int:
        """Voxels of the label in the reference."""
        return self.tp + self.fn

    @property
    def n_pred(self) -> int:
        """Voxels of the label in the prediction."""
        return self.tp + self.fp

    @property
    def volume_error_ml(self) -> float:
        """Predicted minus reference volume; NaN when both are empty."""
        return self.volume_pred_ml - self.volume_ref_ml if self.tp + self.fp + self.fn else float("nan")

    @property
    def volume_error_relative(self) -> float:
        """Volume error as a share of the reference volume; infinite when only the reference is empty."""
        if not self.n_ref:
            return float("inf") if self.n_pred else float("nan")
        return (self.n_pred - self.n_ref) / self.n_ref


def score_case(
    reference: LabelMap,
    prediction: LabelMap,
    *,
    labels: Sequence[Label],
    spacing_mm: tuple[float, float, float],
    ignore: int | None = None,
    tolerance_mm: float | None = None,
    lesion_rule: LesionRule | None = None,
) -> tuple[LabelScores, ...]:
    """Score a prediction against its reference, label by label.

    Args:
        reference: label values `(z, y, x)`, 0 to 65535.
        prediction: label values, same shape.
        labels: labels and regions to score.
        spacing_mm: `(z, y, x)`.
        ignore: voxels with this value in the reference are excluded.
        tolerance_mm: for NSD; None leaves the surface metrics out.
        lesion_rule: for the detection of lesions; None leaves it out.

    Returns:
        One `LabelScores` per entry of `labels`, in that order.
    """
    values = np.union1d(np.union1d(find_values(reference), find_values(prediction)), [0])
    reference, prediction = index_values(reference, values), index_values(prediction, values)
    counts = count_pairs(reference, prediction, num_values=len(values))
    if ignore is not None and ignore in values:
        _leave_out(int(np.searchsorted(values, ignore)), reference, prediction, counts)
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    members = [np.isin(values, label.values) for label in labels]
    surfaces: Sequence[SurfaceScores | None] = [None] * len(labels)
    lesions: Sequence[LesionScores | None] = [None] * len(labels)
    if tolerance_mm is not None:
        surfaces = _score_surfaces(reference, prediction, members, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)
    if lesion_rule is not None:
        lesions = _score_lesions(reference, prediction, members, voxel_ml=voxel_ml, rule=lesion_rule)
    return tuple(
        score_counts(counts, member, voxel_ml=voxel_ml, surface=surface, lesions=found)
        for member, surface, found in zip(members, surfaces, lesions, strict=True)
    )


def score_empty_label(*, num_voxels: int, with_surface: bool, with_lesions: bool = False) -> LabelScores:
    """Make the scores of a label that is in neither map of a case of `num_voxels` scored voxels."""
    return score_counts(
        np.array([[num_voxels]]),
        np.array([False]),
        voxel_ml=0.0,
        surface=NOTHING_TO_MEASURE if with_surface else None,
        lesions=NO_LESIONS if with_lesions else None,
    )


def score_counts(
    counts: NDArray[np.int64],
    member: NDArray[np.bool_],
    *,
    voxel_ml: float,
    surface: SurfaceScores | None = None,
    lesions: LesionScores | None = None,
) -> LabelScores:
    """Turn pair counts into the scores of one label or region.

    Args:
        counts: voxels per (reference value, prediction value), from `count_pairs`.
        member: which values belong to the label, boolean, one per value.
        voxel_ml: volume of one voxel.
        surface: surface scores to carry along.
        lesions: scores of lesions to carry along.
    """
    tp = int(counts[np.ix_(member, member)].sum())
    fn = int(counts[member].sum()) - tp
    fp = int(counts[:, member].sum()) - tp
    union = tp + fp + fn
    return LabelScores(
        dice=2 * tp / (union + tp) if union else float("nan"),
        iou=tp / union if union else float("nan"),
        tp=tp,
        fp=fp,
        fn=fn,
        tn=int(counts.sum()) - union,
        volume_ref_ml=(tp + fn) * voxel_ml,
        volume_pred_ml=(tp + fp) * voxel_ml,
        surface=surface,
        lesions=lesions,
    )


def find_values(label_map: LabelMap) -> NDArray[np.int64]:
    """Return the distinct values of a label map (0 to 65535), ascending, without sorting its voxels."""
    is_present = np.zeros(int(label_map.max()) + 1, dtype=np.bool_)
    for start, stop in _iterate_ranges(label_map):
        slab = label_map[start:stop]
        is_labelled = slab != 0
        is_present[slab[is_labelled]] = True
        is_present[0] |= not is_labelled.all()
    return np.flatnonzero(is_present)


def index_values(label_map: LabelMap, values: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Replace each label value by its position in `values` (ascending, complete, none negative)."""
    table = np.zeros(int(values[-1]) + 1, dtype=np.uint16)
    table[values] = np.arange(len(values), dtype=np.uint16)
    positions = np.empty(label_map.shape, dtype=np.uint16)
    for start, stop in _iterate_ranges(label_map):
        positions[start:stop] = table[label_map[start:stop]]
    return positions


def count_pairs(reference: NDArray[np.uint16], prediction: NDArray[np.uint16], *, num_values: int) -> NDArray[np.int64]:
    """Count the voxels of every (reference, prediction) pair of positions in one pass.

    Returns:
        Counts `(num_values, num_values)`, rows being the reference.
    """
    counts = np.zeros(num_values * num_values, dtype=np.int64)
    for start, stop in _iterate_ranges(reference):
        first, second = reference[start:stop], prediction[start:stop]
        # Most voxels are background in both, and known without counting.
        is_labelled = (first | second) != 0
        pairs = first[is_labelled].astype(np.intp) * num_values + second[is_labelled]
        counts += np.bincount(pairs, minlength=counts.size)
    counts[0] = reference.size - counts.sum()
    return counts.reshape(num_values, num_values)


def _leave_out(
    position: int, reference: NDArray[np.uint16], prediction: NDArray[np.uint16], counts: NDArray[np.int64]
) -> None:
    """Turn ignored voxels into background in both maps and take them out of the counts, in place."""
    is_ignored = reference == position
    reference[is_ignored] = 0
    prediction[is_ignored] = 0
    counts[position] = 0


def _score_surfaces(
    reference: NDArray[np.uint16],
    prediction: NDArray[np.uint16],
    members: Sequence[NDArray[np.bool_]],
    *,
    spacing_mm: tuple[float, float, float],
    tolerance_mm: float,
) -> list[SurfaceScores]:
    grid = choose_surface_grid(reference.shape, spacing_mm)
    both = [find_elements(label_map.reshape(grid.shape), members) for label_map in (reference, prediction)]
    return [
        score_elements(first, second, grid=grid, tolerance_mm=tolerance_mm) for first, second in zip(*both, strict=True)
    ]


def _score_lesions(
    reference: NDArray[np.uint16],
    prediction: NDArray[np.uint16],
    members: Sequence[NDArray[np.bool_]],
    *,
    voxel_ml: float,
    rule: LesionRule,
) -> list[LesionScores]:
    num_values = len(members[0]) if members else 1
    boxes = _find_boxes(reference, prediction, num_values=num_values)
    scores = []
    for member in members:
        box = _join_boxes([boxes[position] for position in np.flatnonzero(member)])
        if box is None:
            scores.append(NO_LESIONS)
            continue
        masks = [_mark_members(label_map[box], member) for label_map in (reference, prediction)]
        scores.append(score_lesions(*masks, voxel_mm3=voxel_ml * 1000, rule=rule))
    return scores


def _mark_members(label_map: NDArray[np.uint16], member: NDArray[np.bool_]) -> NDArray[np.bool_]:
    mask = np.empty(label_map.shape, dtype=np.bool_)
    for start, stop in _iterate_ranges(label_map):
        mask[start:stop] = member[label_map[start:stop]]
    return mask


def _iterate_ranges(array: LabelMap) -> Iterator[tuple[int, int]]:
    """Yield ranges of planes that hold a few million voxels: indexing by labels takes 8 bytes for each."""
    thickness = max(1, _SLAB_VOXELS * array.shape[0] // max(1, array.size))
    for start in range(0, array.shape[0], thickness):
        yield start, start + thickness


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
