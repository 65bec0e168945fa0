"""Statistics over cases: means that survive missing values, spread, bootstrap confidence intervals."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from stu_pipeline.evaluation.config import Spread

Values = NDArray[np.float64]

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95
_MIN_CASES_FOR_INTERVAL = 2
_BLOCK_WEIGHTS = 1 << 22
_MAX_CASES_KEPT = 500


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
    around_median = find_median_interval(finite)
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
        median_ci_low=around_median[0] if around_median else None,
        median_ci_high=around_median[1] if around_median else None,
    )


def find_median_interval(values: Values) -> tuple[float, float] | None:
    """Find the 95 % confidence interval of the median from the order of the values.

    The number of values below the true median is binomial, whatever the distribution: no resampling is needed, and the
    interval covers the median at least as often as it says.

    Args:
        values: finite, one per case.

    Returns:
        Two of the values; None below six, where no two values enclose the median that surely.
    """
    rank = int(binom.ppf((1 - CONFIDENCE) / 2, values.size, 0.5)) if values.size else 0
    if rank < 1:
        return None
    ordered = np.sort(values)
    return float(ordered[rank - 1]), float(ordered[-rank])


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
    means = []
    for draws in _iterate_draws(num_cases, seed):
        # How often each case is drawn decides a resample: its label means are two matrix products.
        numbers = draws @ is_finite
        label_means = np.divide(draws @ filled, numbers, out=np.zeros_like(numbers), where=numbers > 0)
        means.append(label_means.sum(axis=1) / (numbers > 0).sum(axis=1))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.concatenate(means), (tail, 100 - tail))
    return float(low), float(high)


def _iterate_draws(num_cases: int, seed: int) -> Iterator[Values]:
    """Yield how often each case is drawn, `(resamples, cases)`, a bounded number of resamples at a time."""
    if num_cases <= _MAX_CASES_KEPT:
        yield _draw_all(num_cases, seed).astype(np.float64)
        return
    generator = np.random.default_rng(seed)
    block = max(1, min(NUM_RESAMPLES, _BLOCK_WEIGHTS // num_cases))
    for start in range(0, NUM_RESAMPLES, block):
        yield _draw(generator, num_cases, min(block, NUM_RESAMPLES - start)).astype(np.float64)


@functools.lru_cache(maxsize=32)
def _draw_all(num_cases: int, seed: int) -> NDArray[np.int16]:
    # Drawing costs more than all the rest, and every label and metric of an evaluation needs the same draws.
    return _draw(np.random.default_rng(seed), num_cases, NUM_RESAMPLES).astype(np.int16)


def _draw(generator: np.random.Generator, num_cases: int, num_resamples: int) -> NDArray[np.int64]:
    return generator.multinomial(num_cases, np.full(num_cases, 1 / num_cases), size=num_resamples)
