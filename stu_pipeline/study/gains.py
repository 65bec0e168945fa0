"""What an arm gains over its baseline: per dataset with a paired test over cases, and over all datasets.

Pure: scores in, numbers out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stu_pipeline.evaluation.comparison.compare import average_labels
from stu_pipeline.evaluation.comparison.paired import PairedScores, compare_paired, correct_holm, find_signed_rank_p
from stu_pipeline.evaluation.statistics import bootstrap_interval
from stu_pipeline.study.manifest import Comparison
from stu_pipeline.study.pooling import ArmKey, ArmScores, average

Values = NDArray[np.float64]
TRIMMED_SHARE = 0.1
MIN_DATASETS_TO_TRIM = 5
_DECIMALS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetGain:
    """An arm against its baseline on one dataset.

    Scores are of the cases, labels and seeds that both arms have, a case being the mean over its labels.
    """

    arm: ArmKey
    baseline: ArmKey
    paired: PairedScores
    """The arm is the second run; one value per case, the mean over its labels and seeds."""
    p_corrected: float | None
    """Holm's correction over the datasets and numbers of training cases of the comparison."""
    num_seeds: int
    flags: tuple[str, ...] = ()
    """Runs of either arm that look failed: the gain is none."""

    @property
    def gain(self) -> float | None:
        """Mean over cases of arm minus baseline."""
        return self.paired.difference


@dataclass(frozen=True, slots=True, kw_only=True)
class OverallGain:
    """An arm against its baseline over all datasets; every number is None without a dataset."""

    comparison: Comparison
    scale: str
    baseline_scale: str
    num_training_cases: int
    has_failed_runs: bool
    """Whether datasets with runs that look failed are in it."""
    num_datasets: int
    mean: float | None
    ci_low: float | None
    """95 % bootstrap interval of the mean over datasets; None below two."""
    ci_high: float | None
    median: float | None
    trimmed_mean: float | None
    """Without the tenth of the datasets with the largest gains and that with the smallest (at least one each, from
    five datasets on)."""
    wins: int
    ties: int
    losses: int
    p_value: float | None
    """Wilcoxon signed-rank test over datasets; it says nothing below six."""
    negative: tuple[str, ...]
    """Datasets that the arm made worse: negative transfer."""


def compare_arms(
    pools: Mapping[ArmKey, ArmScores], comparisons: Sequence[Comparison], flags: Mapping[ArmKey, Sequence[str]]
) -> list[DatasetGain]:
    """Compare every arm with its baseline on every dataset, scale and number of training cases that both have.

    An STU-Net is compared with the same scale of its baseline; a stock network has one for all.

    Args:
        pools: by dataset, arm, scale and number of training cases.
        comparisons: which pairs.
        flags: what looks failed, per key.
    """
    gains: list[DatasetGain] = []
    for comparison in comparisons:
        family = [
            gain
            for key in pools
            if key.arm == comparison.arm
            for other in pools
            if _belongs(key, other, comparison)
            if (gain := _compare(key, other, pools, flags)) is not None
        ]
        corrected = correct_holm([gain.paired.p_value for gain in family])
        gains += [replace(gain, p_corrected=p) for gain, p in zip(family, corrected, strict=True)]
    return gains


def sum_gains(gains: Sequence[DatasetGain], comparisons: Sequence[Comparison]) -> list[OverallGain]:
    """Sum up gains over datasets, once with and once without those whose runs look failed."""
    found: dict[tuple[str, str, str, str, int], list[DatasetGain]] = {}
    for gain in gains:
        arm, baseline = gain.arm, gain.baseline
        key = (arm.arm, baseline.arm, arm.scale, baseline.scale, arm.num_training_cases)
        found.setdefault(key, []).append(gain)
    overall = []
    for (arm_name, baseline_name, scale, baseline_scale, number), own in found.items():
        comparison = next(c for c in comparisons if (c.arm, c.baseline) == (arm_name, baseline_name))
        for has_failed_runs in (True, False):
            kept = [gain for gain in own if has_failed_runs or not gain.flags]
            overall.append(
                _sum_up(kept, comparison, scale=scale, baseline_scale=baseline_scale, number=number,
                        has_failed_runs=has_failed_runs)
            )  # fmt: skip
    return overall


def trim_mean(values: Values) -> float | None:
    """Average without the largest and the smallest tenth: at least one each from five values on, none below."""
    if not values.size:
        return None
    share = max(int(TRIMMED_SHARE * values.size), 1) if values.size >= MIN_DATASETS_TO_TRIM else 0
    ordered = np.sort(values)
    return float(ordered[share : values.size - share].mean())


def _belongs(key: ArmKey, other: ArmKey, comparison: Comparison) -> bool:
    return (
        other.arm == comparison.baseline
        and other.dataset == key.dataset
        and other.num_training_cases == key.num_training_cases
        and (other.scale == key.scale or not other.scale or not key.scale)
    )


def _compare(
    key: ArmKey, other: ArmKey, pools: Mapping[ArmKey, ArmScores], flags: Mapping[ArmKey, Sequence[str]]
) -> DatasetGain | None:
    arm, baseline = pools[key], pools[other]
    seeds = [seed for seed in arm.seeds if seed in baseline.seeds]
    cases = [case for case in arm.cases if case in baseline.cases]
    labels = [label for label in arm.labels if label in baseline.labels]
    if not (seeds and cases and labels):
        return None
    values = np.stack([_average_shared(scores, seeds, cases, labels) for scores in (baseline, arm)])
    over_labels = average_labels(values)
    named = [f"{name.column}: {flag}" for name in (key, other) for flag in flags.get(name, ())]
    return DatasetGain(
        arm=key,
        baseline=other,
        paired=compare_paired(over_labels[0], over_labels[1], higher_is_better=True),
        p_corrected=None,
        num_seeds=len(seeds),
        flags=tuple(named),
    )


def _average_shared(scores: ArmScores, seeds: list[int], cases: list[str], labels: list[str]) -> Values:
    return average(scores.choose(seeds, cases, labels), axis=0)


def _sum_up(
    gains: Sequence[DatasetGain],
    comparison: Comparison,
    *,
    scale: str,
    baseline_scale: str,
    number: int,
    has_failed_runs: bool,
) -> OverallGain:
    known = [(gain, gain.gain) for gain in gains if gain.gain is not None]
    values: Values = np.array([round(value, _DECIMALS) for _, value in known], dtype=np.float64)
    interval = bootstrap_interval(values[:, np.newaxis]) if values.size else None
    return OverallGain(
        comparison=comparison,
        scale=scale,
        baseline_scale=baseline_scale,
        num_training_cases=number,
        has_failed_runs=has_failed_runs,
        num_datasets=int(values.size),
        mean=float(values.mean()) if values.size else None,
        ci_low=interval[0] if interval else None,
        ci_high=interval[1] if interval else None,
        median=float(np.median(values)) if values.size else None,
        trimmed_mean=trim_mean(values),
        wins=int((values > 0).sum()),
        ties=int((values == 0).sum()),
        losses=int((values < 0).sum()),
        p_value=find_signed_rank_p(values),
        negative=tuple(gain.arm.dataset for gain, value in known if round(value, _DECIMALS) < 0),
    )
