"""Scores of a study by dataset, arm, scale and number of training cases; averages whose rules are stated here.

A case is averaged over its seeds first. A dataset's score is the mean over its labels of the mean over its cases
(nnU-Net's `foreground_mean`); NaN, a label that neither map has, is in no mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stu_pipeline.evaluation.statistics import mean_of_finite
from stu_pipeline.study.rows import ScoreRow

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, order=True)
class ArmKey:
    """What is averaged together: all seeds, and all folds where there are some."""

    dataset: str
    arm: str
    scale: str
    """Empty for a stock network."""
    num_training_cases: int
    """0 for folds."""

    @property
    def column(self) -> str:
        """What a column of it is called: `finetuned S`."""
        return f"{self.arm} {self.scale}".strip()


@dataclass(frozen=True, slots=True, eq=False)
class ArmScores:
    """The scores of one arm on one dataset, `(seeds, cases, labels)`; NaN where there is none."""

    seeds: tuple[int, ...]
    cases: tuple[str, ...]
    labels: tuple[str, ...]
    values: Values

    @property
    def over_seeds(self) -> Values:
        """The mean over the seeds, `(cases, labels)`."""
        return average(self.values, axis=0)

    def choose(self, seeds: Sequence[int], cases: Sequence[str], labels: Sequence[str]) -> Values:
        """Return the values of some seeds, cases and labels, in that order."""
        places = (
            [self.seeds.index(seed) for seed in seeds],
            [self.cases.index(case) for case in cases],
            [self.labels.index(label) for label in labels],
        )
        chosen: Values = self.values[np.ix_(*places)]
        return chosen


def name_key(row: ScoreRow) -> ArmKey:
    """Return what a row is averaged with."""
    cell = row.cell
    return ArmKey(cell.dataset, cell.arm, cell.scale or "", cell.split.num_training_cases or 0)


def pool_rows(rows: Iterable[ScoreRow], metric: str = "dice") -> dict[ArmKey, ArmScores]:
    """Put rows into arrays, one per dataset, arm, scale and number of training cases.

    Args:
        rows: of all cells that are done.
        metric: `dice` or `nsd`.
    """
    found: dict[ArmKey, list[ScoreRow]] = {}
    for row in rows:
        found.setdefault(name_key(row), []).append(row)
    # Stable: the arms stay in the order of the rows, which is the manifest's.
    order = sorted(found, key=lambda key: (key.dataset, key.num_training_cases))
    return {key: _make_scores(found[key], metric) for key in order}


def average(values: Values, axis: int | None = None) -> Values:
    """Average the values that are not NaN along an axis, or all; NaN where there is none."""
    known = ~np.isnan(values)
    numbers = known.sum(axis=axis)
    sums = np.where(known, values, 0.0).sum(axis=axis)
    means: Values = np.divide(sums, numbers, out=np.full(np.shape(sums), math.nan), where=np.asarray(numbers) > 0)
    return means


def score_labels(scores: ArmScores) -> dict[str, float]:
    """Return the mean over cases and seeds per label; labels that no case has are left out."""
    means = average(scores.over_seeds, axis=0)
    return {label: float(mean) for label, mean in zip(scores.labels, means, strict=True) if math.isfinite(mean)}


def score_dataset(scores: ArmScores) -> float | None:
    """Return the mean over labels of the mean over cases; None without any value."""
    return mean_of_finite(np.array(list(score_labels(scores).values()), dtype=np.float64))


def score_cases(scores: ArmScores) -> Values:
    """Return per case the mean over its labels; NaN for a case without any label."""
    return average(scores.over_seeds, axis=1)


def score_seeds(scores: ArmScores) -> list[float]:
    """Return `score_dataset` of each seed by itself, NaN where a seed has no value."""
    means = [mean_of_finite(average(values, axis=0)) for values in scores.values]
    return [math.nan if mean is None else mean for mean in means]


def macro_average(scores: Mapping[str, Mapping[str, float]]) -> tuple[float | None, float | None]:
    """Average over datasets and over labels.

    Args:
        scores: per dataset the score of each of its labels that belong here.

    Returns:
        Dataset-macro: the mean over datasets of the mean over their labels. Class-macro: the mean over all labels of
        all datasets, so that a dataset with many labels weighs more. None without any value.
    """
    per_dataset = [mean_of_finite(np.array(list(labels.values()), dtype=np.float64)) for labels in scores.values()]
    known = np.array([value for value in per_dataset if value is not None], dtype=np.float64)
    every = np.array([value for labels in scores.values() for value in labels.values()], dtype=np.float64)
    return mean_of_finite(known), mean_of_finite(every)


def _make_scores(rows: Sequence[ScoreRow], metric: str) -> ArmScores:
    seeds = tuple(sorted({row.cell.split.seed for row in rows}))
    cases = tuple(sorted({row.case for row in rows}))
    labels = tuple(dict.fromkeys(row.label for row in rows))
    place = [{name: index for index, name in enumerate(names)} for names in (seeds, cases, labels)]
    values = np.full((len(seeds), len(cases), len(labels)), math.nan)
    for row in rows:
        values[place[0][row.cell.split.seed], place[1][row.case], place[2][row.label]] = getattr(row, metric)
    return ArmScores(seeds, cases, labels, values)
