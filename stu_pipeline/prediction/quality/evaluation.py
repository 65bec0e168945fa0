"""Is the estimate worth anything? Every group of cases is estimated by what the other groups taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stu_pipeline.prediction.quality.estimate import CaseQuality, estimate_quality
from stu_pipeline.prediction.quality.estimator import Estimator, fit_estimator, require_enough
from stu_pipeline.prediction.quality.features import ScoredLabel
from stu_pipeline.prediction.quality.regression import Array, Observation

WORST_SHARE = 0.2
_NUM_RESAMPLES = 2000
_CONFIDENCE = 0.95
_MIN_RANKED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Numbers on cases that the estimate had not seen; of one label, or of all. None where there are too few."""

    num_cases: int
    mae: float
    """Mean absolute error of the expected Dice."""
    mae_mean: float
    """Of the first baseline: the mean of the label in the other groups."""
    mae_soft_dice: float
    """Of the second baseline: the soft Dice as it is."""
    spearman: float | None
    """Rank correlation with the Dice, the mean over groups; of all labels: the mean over labels."""
    spearman_soft_dice: float | None
    auroc: float | None
    """Of finding the worst fifth of a group's cases, the mean over groups; of all labels: the mean over labels."""
    auroc_soft_dice: float | None
    coverage: float | None
    """Share of masks that are above their lower bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the estimate is worth showing, and how its accept rule did."""

    is_useful: bool
    """Whether its error is smaller than that of the better baseline, beyond chance."""
    gain: float
    """By how much, in Dice: the mean over cases."""
    gain_at_least: float
    """One-sided 95 % bound from resampled cases; the estimate is useful when it is above 0."""
    accepted: float | None
    """Share of cases that the rule accepts; None with too few cases for a rule."""
    accepted_wrongly: float | None
    """Share of all cases that are accepted although a label is below what it must reach."""
    total: Evaluation
    labels: Mapping[str, Evaluation]


@dataclass(frozen=True, slots=True)
class _Row:
    case: str
    group: int
    label: str
    dice: float
    expected: float
    mean: float
    soft_dice: float
    lower: float | None


def evaluate_estimates(
    observations: Sequence[Observation],
    labels: Sequence[ScoredLabel],
    *,
    error_rate: float,
    accept_dice: float | None = None,
) -> Verdict:
    """Estimate every group by what the other groups taught, and compare with the truth.

    At least three groups; nothing of the group, neither regression nor errors nor means, is used for it.

    Raises:
        DataError: too few cases.
    """
    known = {label.name for label in labels}
    observations = [item for item in observations if item.label in known]
    require_enough(observations)
    rows: list[_Row] = []
    accepted: list[tuple[bool | None, bool]] = []
    for group in sorted({item.group for item in observations}):
        estimator = fit_estimator(
            [item for item in observations if item.group != group], labels, accept_dice=accept_dice
        )
        for own in _split_by_case([item for item in observations if item.group == group]):
            features = {estimator.labels[item.label].channel: item.features for item in own}
            quality = estimate_quality(features, estimator, error_rate=error_rate)
            rows += _list_rows(own, quality, estimator)
            accepted.append((quality.is_accepted, _is_below_goal(own, estimator)))
    return _judge(rows, accepted, [label.name for label in labels])


def _split_by_case(observations: Sequence[Observation]) -> list[list[Observation]]:
    cases = sorted({item.case for item in observations})
    return [[item for item in observations if item.case == case] for case in cases]


def _list_rows(own: Sequence[Observation], quality: CaseQuality, estimator: Estimator) -> list[_Row]:
    by_name = {label.name: label for label in quality.labels}
    rows = []
    for item in own:
        found, usual = by_name[item.label], estimator.labels[item.label]
        if item.dice is not None and found.expected_dice is not None and usual.mean_dice is not None:
            rows.append(
                _Row(item.case, item.group, item.label, item.dice, found.expected_dice, usual.mean_dice,
                     item.features.soft_dice, found.lower_bound)
            )  # fmt: skip
    return rows


def _is_below_goal(own: Sequence[Observation], estimator: Estimator) -> bool:
    """Whether a label that the mask has is below what it must reach."""
    return any(
        item.dice is not None and item.features.num_voxels > 0 and item.dice < estimator.labels[item.label].accept_dice
        for item in own
    )


def _judge(rows: Sequence[_Row], accepted: Sequence[tuple[bool | None, bool]], names: Sequence[str]) -> Verdict:
    by_label = {name: [row for row in rows if row.label == name] for name in names}
    labels = {name: _evaluate_label(found) for name, found in by_label.items() if found}
    total = _evaluate_all(rows, list(labels.values()))
    gain, at_least = _measure_gain(rows, total)
    has_rule = all(verdict is not None for verdict, _ in accepted)
    return Verdict(
        is_useful=at_least > 0,
        gain=gain,
        gain_at_least=at_least,
        accepted=float(np.mean([verdict is True for verdict, _ in accepted])) if has_rule else None,
        accepted_wrongly=float(np.mean([verdict is True and below for verdict, below in accepted]))
        if has_rule
        else None,
        total=total,
        labels=labels,
    )


def _evaluate_label(rows: Sequence[_Row]) -> Evaluation:
    dice = np.array([row.dice for row in rows])
    expected = np.array([row.expected for row in rows])
    soft = np.array([row.soft_dice for row in rows])
    bounds = [row.dice >= row.lower for row in rows if row.lower is not None]
    groups = _split_by_group(rows)
    worst = [_find_worst(dice[own]) for own in groups]
    return Evaluation(
        num_cases=len(rows),
        mae=float(np.abs(expected - dice).mean()),
        mae_mean=float(np.abs(np.array([row.mean for row in rows]) - dice).mean()),
        mae_soft_dice=float(np.abs(soft - dice).mean()),
        # Within groups: what the others taught is lower for a group that is better, which is no ranking of cases.
        spearman=_average([compute_spearman(expected[own], dice[own]) for own in groups]),
        spearman_soft_dice=_average([compute_spearman(soft[own], dice[own]) for own in groups]),
        auroc=_average([compute_auroc(-expected[own], hits) for own, hits in zip(groups, worst, strict=True)]),
        auroc_soft_dice=_average([compute_auroc(-soft[own], hits) for own, hits in zip(groups, worst, strict=True)]),
        coverage=float(np.mean(bounds)) if bounds else None,
    )


def _evaluate_all(rows: Sequence[_Row], labels: Sequence[Evaluation]) -> Evaluation:
    whole = _evaluate_label(rows)
    return Evaluation(
        num_cases=len({row.case for row in rows}),
        mae=whole.mae,
        mae_mean=whole.mae_mean,
        mae_soft_dice=whole.mae_soft_dice,
        spearman=_average([label.spearman for label in labels]),
        spearman_soft_dice=_average([label.spearman_soft_dice for label in labels]),
        auroc=_average([label.auroc for label in labels]),
        auroc_soft_dice=_average([label.auroc_soft_dice for label in labels]),
        coverage=whole.coverage,
    )


def _split_by_group(rows: Sequence[_Row]) -> list[npt.NDArray[np.intp]]:
    groups = np.array([row.group for row in rows])
    return [np.flatnonzero(groups == group) for group in np.unique(groups)]


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _measure_gain(rows: Sequence[_Row], total: Evaluation) -> tuple[float, float]:
    """Return how much smaller the error is than the better baseline's: the mean over cases, and its lower bound."""
    is_mean = total.mae_mean <= total.mae_soft_dice
    gains: dict[str, list[float]] = {}
    for row in rows:
        baseline = row.mean if is_mean else row.soft_dice
        gains.setdefault(row.case, []).append(abs(baseline - row.dice) - abs(row.expected - row.dice))
    # Labels of one case go together, so cases are resampled.
    by_case = np.array([np.mean(gains[case]) for case in sorted(gains)])
    generator = np.random.default_rng(0)
    drawn = generator.integers(len(by_case), size=(_NUM_RESAMPLES, len(by_case)))
    return float(by_case.mean()), float(np.quantile(by_case[drawn].mean(axis=1), 1 - _CONFIDENCE))


def compute_spearman(a: Array, b: Array) -> float | None:
    """Return the rank correlation; None with fewer than 5 values, or when all are equal."""
    if len(a) < _MIN_RANKED or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(_rank(a), _rank(b))[0, 1])


def compute_auroc(scores: Array, is_hit: Array) -> float | None:
    """Return how often a hit has a higher score than another; ties count half. None without hits or others."""
    num_hits, num_others = int(is_hit.sum()), int((~is_hit.astype(bool)).sum())
    if num_hits == 0 or num_others == 0 or len(scores) < _MIN_RANKED:
        return None
    ranks = _rank(scores)
    return float((ranks[is_hit.astype(bool)].sum() - num_hits * (num_hits + 1) / 2) / (num_hits * num_others))


def _find_worst(dice: Array) -> Array:
    return np.asarray(dice <= np.quantile(dice, WORST_SHARE), dtype=np.float64)


def _rank(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return ranks from 1, ties sharing their mean."""
    from scipy.stats import rankdata  # late: predictions read a calibration without evaluating it

    ranks: npt.NDArray[np.float64] = rankdata(values)
    return ranks
