"""The files of one validation case: what they tell the choice, and what rules do to them.

Imports no torch: this module is what every worker process loads. Reads: a mask and its reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from stu_pipeline.datasets.label_ids import LabelIds
from stu_pipeline.datasets.reading import read_label_map
from stu_pipeline.datasets.volume import check_same_grid
from stu_pipeline.errors import DataError
from stu_pipeline.prediction.postprocessing.operations import LabelMap, add_counts, count_values
from stu_pipeline.prediction.postprocessing.rules import LabelRule, PostprocessingRules, apply_rules, choose_spacing
from stu_pipeline.prediction.postprocessing.tables import CaseTable, tabulate_case
from stu_pipeline.prediction.postprocessing.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCase:
    """A validation case: its mask, its reference, and the group of cases that it is unseen with."""

    name: str
    group: int
    prediction: Path
    """Holds consecutive label values, as validation leaves them."""
    reference: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningTask:
    """What is the same for every case."""

    targets: tuple[Target, ...]
    reference_ids: LabelIds | None = None
    """Turns the ids in the references into consecutive ones; None where they are."""
    ignore: int | None = None
    """Voxels with this value in the reference are not scored; consecutive too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanedCase:
    """The Dice of every target of a case, as it is and cleaned up; 1 where neither mask nor reference has it."""

    before: tuple[float, ...]
    after: tuple[float, ...]


def tabulate_files(case: LearningCase, task: LearningTask) -> CaseTable:
    """Count the components of a case.

    Raises:
        DataError: a file cannot be used, or the grids differ.
    """
    prediction, reference, spacing_mm = _read(case, task)
    return tabulate_case(prediction, reference, task.targets, voxel_mm3=math.prod(spacing_mm), ignore=task.ignore)


def clean_files(case: LearningCase, task: LearningTask, rules: tuple[LabelRule, ...]) -> CleanedCase:
    """Apply rules to a case and measure the Dice before and after.

    Raises:
        DataError: a file cannot be used, or the grids differ.
    """
    prediction, reference, spacing_mm = _read(case, task)
    before = _measure(prediction, reference, task)
    apply_rules(prediction, PostprocessingRules(checkpoints={}, rules=rules), spacing_mm)
    return CleanedCase(before=before, after=_measure(prediction, reference, task))


def _read(case: LearningCase, task: LearningTask) -> tuple[LabelMap, LabelMap, tuple[float, float, float]]:
    prediction, reference = read_label_map(case.prediction), read_label_map(case.reference)
    if problems := check_same_grid(reference, prediction):
        raise DataError(
            f"the validation mask is not on the grid of its reference: {problems[0]}", where=case.prediction
        )
    array = cast(LabelMap, reference.array)
    array = array if task.reference_ids is None else task.reference_ids.to_consecutive(array)
    return cast(LabelMap, prediction.array), array, choose_spacing(reference.grid)


def _measure(prediction: LabelMap, reference: LabelMap, task: LearningTask) -> tuple[float, ...]:
    if task.ignore is not None:
        prediction = np.where(reference == task.ignore, 0, prediction)
    both = np.where(prediction == reference, prediction, 0)
    predicted, there, right = count_values(prediction), count_values(reference), count_values(both)
    dice = []
    for target in task.targets:
        values = target.values
        total = add_counts(predicted, values) + add_counts(there, values)
        if len(values) == 1:
            hits = add_counts(right, values)
        else:
            hits = int(np.count_nonzero(np.isin(prediction, values) & np.isin(reference, values)))
        dice.append(2 * hits / total if total else 1.0)
    return tuple(dice)
