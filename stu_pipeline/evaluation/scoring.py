"""Score one case from its two files, and many cases over worker processes.

Imports no torch: this module is what every worker process loads.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from stu_pipeline.datasets.label_ids import LabelIds
from stu_pipeline.datasets.reading import read_label_map
from stu_pipeline.datasets.volume import Grid, Volume, check_same_grid
from stu_pipeline.errors import DataError, MemoryLimitError, StuError
from stu_pipeline.evaluation.cases import CasePair
from stu_pipeline.evaluation.common_labels import CommonLabels
from stu_pipeline.evaluation.exchanged_sides import NO_OVERLAP, SideOverlap, measure_side_overlap
from stu_pipeline.evaluation.labels import LabelSet, label_values
from stu_pipeline.evaluation.lesions import LesionRule
from stu_pipeline.evaluation.metrics import LabelMap, LabelScores, find_values, score_case, score_empty_label
from stu_pipeline.workers import run_in_workers

# More distinct values than any atlas has: somebody passed an image for a label map.
MAX_FOUND_VALUES = 1000
MAX_WORKERS = 8
_MIN_CASES_FOR_WORKERS = 8
_VALUES_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRules:
    """What to score and how.

    Args:
        labels: of the references, and of the predictions unless these are given; None scores every value found in a
            case.
        tolerance_mm: None leaves the surface metrics out.
        reference_ids: turns the consecutive ids in the references into the dataset's own; None where they are.
        prediction_ids: the same for the predictions.
        lesion_rule: None leaves the detection of lesions out.
        prediction_labels: of the predictions, where they are not the references'.
        common: what is scored where the two differ; None scores `labels`.
    """

    labels: LabelSet | None
    tolerance_mm: float | None
    reference_ids: LabelIds | None = None
    prediction_ids: LabelIds | None = None
    lesion_rule: LesionRule | None = None
    prediction_labels: LabelSet | None = None
    common: CommonLabels | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredCase:
    """The scores of one case by label key, and how many voxels it has."""

    pair: CasePair
    scores: dict[str, LabelScores]
    num_voxels: int
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """`(z, y, x)`; 1 mm along the axis that a flat image lacks."""
    sides: SideOverlap = NO_OVERLAP
    """Looked at where reference and prediction have label lists of their own."""

    def find_scores(self, key: str, *, with_surface: bool, with_lesions: bool = False) -> LabelScores:
        """Return the scores of a label; those of an absent label where only other cases hold it."""
        return self.scores.get(key) or score_empty_label(
            num_voxels=self.num_voxels, with_surface=with_surface, with_lesions=with_lesions
        )


def score_pair(pair: CasePair, rules: ScoringRules) -> ScoredCase:
    """Read and score one case.

    Raises:
        DataError: a file is unreadable, the grids differ, or a value is no label of the dataset.
        MemoryLimitError: the case does not fit the memory.
    """
    try:
        reference = _read_label_map(pair.reference, rules.reference_ids)
        prediction = _read_label_map(pair.prediction, rules.prediction_ids)
        problems = check_same_grid(reference, prediction)
        if problems:
            raise DataError(
                f"case '{pair.case}': the prediction's grid is not the reference's: {'; '.join(problems)}",
                where=pair.prediction,
                hint="predict on the image that the reference was drawn on",
            )
        reference_map, prediction_map = cast(LabelMap, reference.array), cast(LabelMap, prediction.array)
        labels = _require_labels(pair, reference_map, prediction_map, rules)
        sides = NO_OVERLAP
        if rules.common is not None:
            labels = rules.common.labels
            encoded = rules.common.encode_reference(reference_map), rules.common.encode_prediction(prediction_map)
            sides = measure_side_overlap(*encoded, labels.labels)
            reference_map, prediction_map = encoded
        scores = score_case(
            reference_map,
            prediction_map,
            labels=labels.labels,
            ignore=labels.ignore,
            spacing_mm=_choose_spacing(reference.grid),
            tolerance_mm=rules.tolerance_mm,
            lesion_rule=rules.lesion_rule,
        )
    except MemoryError as error:
        raise MemoryLimitError(
            f"case '{pair.case}' does not fit the memory", where=pair.reference, hint="use fewer --workers"
        ) from error
    return ScoredCase(
        pair=pair,
        scores={label.key: score for label, score in zip(labels.labels, scores, strict=True)},
        num_voxels=reference.array.size,
        spacing_mm=_choose_spacing(reference.grid),
        sides=sides,
    )


def score_pairs(
    pairs: Sequence[CasePair], rules: ScoringRules, *, num_workers: int | None = None
) -> Iterator[ScoredCase | StuError]:
    """Score cases, in worker processes when there are many; a case that fails is yielded as its error.

    Args:
        pairs: the cases.
        rules: what to score and how.
        num_workers: processes; None for what the cores allow. Few cases are scored in this process.

    Yields:
        One outcome per case, in the order of completion.
    """
    allowed = min(MAX_WORKERS, _count_cores()) if num_workers is None else num_workers
    workers = allowed if allowed > 1 and len(pairs) >= _MIN_CASES_FOR_WORKERS else 0
    score = functools.partial(score_pair, rules=rules)
    for outcome in run_in_workers(score, pairs, num_workers=workers, name_of=lambda pair: pair.case):
        if outcome.error is not None:
            yield outcome.error
        elif outcome.result is not None:
            yield outcome.result


def _read_label_map(path: Path, ids: LabelIds | None) -> Volume:
    volume = read_label_map(path)
    if ids is None:
        return volume
    highest = int(volume.array.max())
    if highest >= len(ids.original):
        raise DataError(
            f"'{path.name}' holds label {highest}, but the dataset.json of its folder numbers the labels "
            f"0 to {len(ids.original) - 1}",
            where=path.parent,
            hint="compare label maps with the dataset.json they belong to",
        )
    return replace(volume, array=ids.to_original(volume.array))


def _count_cores() -> int:
    # Not every system can say which cores this process may use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _require_labels(pair: CasePair, reference: LabelMap, prediction: LabelMap, rules: ScoringRules) -> LabelSet:
    found = {"reference": find_values(reference).tolist(), "prediction": find_values(prediction).tolist()}
    if rules.labels is None:
        values = {value for part in found.values() for value in part}
        if len(values) > MAX_FOUND_VALUES:
            raise DataError(
                f"case '{pair.case}' has {len(values)} distinct values, which looks like an image, not a label map",
                where=pair.reference,
                hint="name the labels with --labels dataset.json",
            )
        return label_values(values)
    for role, present in found.items():
        labels = rules.labels if role == "reference" else rules.prediction_labels or rules.labels
        unknown = sorted(set(present) - labels.known_values)
        if unknown:
            shown = ", ".join(str(value) for value in unknown[:_VALUES_SHOWN])
            known = ", ".join(str(value) for value in sorted(labels.known_values)[:_VALUES_SHOWN])
            more = ", ..." if len(labels.known_values) > _VALUES_SHOWN else ""
            flag = "--prediction-labels" if rules.prediction_labels is not None and role == "prediction" else "--labels"
            raise DataError(
                f"case '{pair.case}': the {role} has unknown label values {shown}, expected {known}{more}",
                where=pair.reference if role == "reference" else pair.prediction,
                hint=f"give the dataset.json that names them: {flag} FILE",
            )
    return rules.labels


def _choose_spacing(grid: Grid) -> tuple[float, float, float]:
    # A flat image has a stand-in for its third spacing; its "volume" is that of a slice 1 mm thick.
    if grid.num_dimensions == 2:
        return (1.0, *grid.spacing_mm[1:])
    return grid.spacing_mm
