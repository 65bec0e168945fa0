"""Paired statistics of two or more runs on the same cases. Pure: arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stu_pipeline.evaluation.statistics import bootstrap_interval, mean_of_finite

Values = NDArray[np.float64]

# Differences below this are rounding: two runs with the same voxels have the same score.
_DECIMALS = 12
_MIN_CASES_FOR_FRIEDMAN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedScores:
    """Two runs compared on one score per case. Every number is None when no case can be compared."""

    mean_first: float | None
    mean_second: float | None
    difference: float | None
    """Mean of second minus first, in the metric's own unit, over the cases where both are finite."""
    ci_low: float | None
    """Lower end of the 95 % confidence interval of `difference` (cases drawn in pairs); None below two cases."""
    ci_high: float | None
    p_value: float | None
    """Two-sided Wilcoxon signed-rank test; cases without a difference are not in it. 1.0 when all are equal."""
    rank_biserial: float | None
    """Matched-pairs rank-biserial correlation, -1 to 1; positive when the second run is better."""
    cohens_dz: float | None
    """Mean advantage of the second run in standard deviations of the differences; None without spread."""
    wins: int
    """Cases in which the second run is better."""
    ties: int
    losses: int
    num_cases: int
    """Cases that could be compared: wins, ties and losses."""
    num_left_out: int
    """Cases without a value in one run or both: the label is empty in reference and prediction."""


def compare_paired(first: Values, second: Values, *, higher_is_better: bool, seed: int = 0) -> PairedScores:
    """Compare two runs on one score per case.

    A missed label (infinite distance) is worse than any distance: it counts in wins, losses and the test. Means and
    their interval need finite numbers and leave it out.

    Args:
        first: one score per case; NaN = nothing to measure, infinite = exactly one of the two maps is empty.
        second: the same cases in the same order.
        higher_is_better: whether a higher score is better.
        seed: of the bootstrap.
    """
    is_known = ~(np.isnan(first) | np.isnan(second))
    is_finite = np.isfinite(first) & np.isfinite(second)
    differences = second[is_finite] - first[is_finite]
    interval = bootstrap_interval(differences[:, np.newaxis], seed=seed)
    advantages = find_advantages(first[is_known], second[is_known], higher_is_better=higher_is_better)
    return PairedScores(
        mean_first=mean_of_finite(first[is_finite]),
        mean_second=mean_of_finite(second[is_finite]),
        difference=mean_of_finite(differences),
        ci_low=interval[0] if interval else None,
        ci_high=interval[1] if interval else None,
        p_value=find_signed_rank_p(advantages),
        rank_biserial=measure_rank_biserial(advantages),
        cohens_dz=_measure_dz(differences if higher_is_better else -differences),
        wins=int((advantages > 0).sum()),
        ties=int((advantages == 0).sum()),
        losses=int((advantages < 0).sum()),
        num_cases=int(is_known.sum()),
        num_left_out=int((~is_known).sum()),
    )


def find_advantages(first: Values, second: Values, *, higher_is_better: bool) -> Values:
    """Return by how much the second run is better, per case; infinite ones become larger than all others.

    Args:
        first: scores without NaN.
        second: the same cases.
        higher_is_better: whether a higher score is better.
    """
    with np.errstate(invalid="ignore"):  # both missed: infinite minus infinite is a tie
        advantages = np.nan_to_num(second - first, nan=0.0, posinf=np.inf, neginf=-np.inf)
    advantages = np.round(advantages if higher_is_better else -advantages, _DECIMALS)
    is_finite = np.isfinite(advantages)
    largest = float(np.abs(advantages[is_finite]).max(initial=0.0))
    return np.where(is_finite, advantages, np.sign(advantages) * (2 * largest + 1))


def find_signed_rank_p(advantages: Values) -> float | None:
    """Return the two-sided p-value of Wilcoxon's signed-rank test.

    Zeros are dropped (Wilcoxon's own way, `zero_method="wilcox"`): a case in which both runs score the same says
    nothing about a direction. SciPy chooses: exact for up to 50 cases without equal differences (13 with), else the
    normal approximation.

    Returns:
        None without any case, 1.0 when all differences are zero.
    """
    if not advantages.size:
        return None
    moved = advantages[advantages != 0]
    return float(stats.wilcoxon(moved, zero_method="wilcox").pvalue) if moved.size else 1.0


def measure_rank_biserial(advantages: Values) -> float | None:
    """Return (favourable - unfavourable) / all rank sums of the non-zero differences, the effect size of the test.

    Returns:
        -1 to 1; None without any case, 0.0 when all differences are zero.
    """
    if not advantages.size:
        return None
    moved = advantages[advantages != 0]
    ranks = stats.rankdata(np.abs(moved))
    return float((ranks * np.sign(moved)).sum() / ranks.sum()) if moved.size else 0.0


def correct_holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values of one family of tests with Holm's step-down method; None stays None and does not count."""
    known = sorted((value, place) for place, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (value, place) in enumerate(known):
        highest = max(highest, min(1.0, value * (len(known) - rank)))
        adjusted[place] = highest
    return adjusted


def rank_runs(values: Values, *, higher_is_better: bool) -> Values:
    """Return the mean rank of each run over the cases; 1 is the best, equal scores share their ranks.

    Args:
        values: `(runs, cases)`; cases with NaN in any run are left out.
        higher_is_better: whether a higher score is better.

    Returns:
        One rank per run; NaN without any case.
    """
    complete = _keep_complete(values)
    if not complete.shape[1]:
        return np.full(len(values), np.nan)
    ranks: Values = stats.rankdata(-complete if higher_is_better else complete, axis=0).mean(axis=1)
    return ranks


def run_friedman(values: Values) -> tuple[float, float, int] | None:
    """Test whether any of three or more runs differs (Friedman, chi-square approximation).

    Args:
        values: `(runs, cases)`; cases with NaN in any run are left out.

    Returns:
        Statistic, p-value and number of cases; None with fewer than three runs or cases.
    """
    complete = _keep_complete(values)
    if len(complete) < _MIN_CASES_FOR_FRIEDMAN or complete.shape[1] < _MIN_CASES_FOR_FRIEDMAN:
        return None
    if (complete == complete[0]).all():
        return 0.0, 1.0, complete.shape[1]
    # Ranks in place of scores: the same statistic, and infinite distances have a rank.
    outcome = stats.friedmanchisquare(*stats.rankdata(np.round(complete, _DECIMALS), axis=0))
    return float(outcome.statistic), float(outcome.pvalue), complete.shape[1]


def _keep_complete(values: Values) -> Values:
    complete: Values = values[:, ~np.isnan(values).any(axis=0)]
    return complete


def _measure_dz(advantages: Values) -> float | None:
    spread = float(advantages.std(ddof=1)) if advantages.size > 1 else 0.0
    return float(advantages.mean()) / spread if spread > 10**-_DECIMALS else None
