"""Statistics over cases: means that survive missing values, spread, bootstrap confidence intervals."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stu_pipeline.evaluation.config import Spread

Values = NDArray[np.float64]

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95
_MIN_CASES_FOR_INTERVAL = 2
_BLOCK_WEIGHTS = 1 << 22


def mean_of_finite(values: Values) -> float | None:
    """Average the finite values; None when there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def mean_over_labels(values: Values) -> float | None:
    """Average over labels of the averages over cases; labels without a finite value are left out.

    Args:
        values: `(cases, labels)`.
    """
    means = [mean_of_finite(column) for column in values.T]
    return mean_of_finite(np.array([math.nan if mean is None else mean for mean in means], dtype=np.float64))


def describe_spread(values: Values, *, seed: int = 0) -> Spread:
    """Describe one metric of one label over the cases.

    Args:
        values: one per case; NaN = nothing to measure, infinite = exactly one of the two maps is empty.
        seed: of the bootstrap.
    """
    finite = values[np.isfinite(values)]
    interval = bootstrap_interval(values[:, np.newaxis], seed=seed)
    low, median, high = np.percentile(finite, (25, 50, 75)).tolist() if finite.size else (None, None, None)
    return Spread(
        mean=mean_of_finite(values),
        ci_low=interval[0] if interval else None,
        ci_high=interval[1] if interval else None,
        median=median,
        quartile_low=low,
        quartile_high=high,
        num_values=int(finite.size),
        num_infinite=int(np.isinf(values).sum()),
        num_missing=int(np.isnan(values).sum()),
    )


def bootstrap_interval(values: Values, *, seed: int = 0) -> tuple[float, float] | None:
    """Find the 95 % confidence interval of `mean_over_labels` by resampling cases (percentile bootstrap).

    Whole cases are drawn, so labels of one case stay together. A resample in which a label has no
    finite value averages over the other labels.

    Args:
        values: `(cases, labels)`.
        seed: the same seed and values give the same interval.

    Returns:
        Lower and upper end; None when fewer than two cases have a finite value.
    """
    values = values[np.isfinite(values).any(axis=1)]
    num_cases = values.shape[0]
    if num_cases < _MIN_CASES_FOR_INTERVAL:
        return None
    is_finite = np.isfinite(values)
    filled = np.where(is_finite, values, 0.0)
    generator = np.random.default_rng(seed)
    block = max(1, min(NUM_RESAMPLES, _BLOCK_WEIGHTS // num_cases))
    means = []
    for start in range(0, NUM_RESAMPLES, block):
        # How often each case is drawn decides a resample: its label means are two matrix products.
        size = min(block, NUM_RESAMPLES - start)
        draws = generator.multinomial(num_cases, np.full(num_cases, 1 / num_cases), size=size).astype(np.float64)
        numbers = draws @ is_finite
        label_means = np.divide(draws @ filled, numbers, out=np.zeros_like(numbers), where=numbers > 0)
        means.append(label_means.sum(axis=1) / (numbers > 0).sum(axis=1))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.concatenate(means), (tail, 100 - tail))
    return float(low), float(high)
