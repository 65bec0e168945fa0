"""Bounds that hold for a chosen share of new cases, whatever the regression is worth (CV+, Barber et al. 2021).

A bound is taken from the errors that the regression made on cases it had not seen. It holds when the new case
could as well have been one of the calibration cases (they are exchangeable), and says nothing otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_ROUNDING = 1e-9


def count_needed_cases(error_rate: float) -> int:
    """Return the smallest number of calibration cases that gives a bound.

    >>> count_needed_cases(0.1)
    9
    """
    return math.ceil(1 / error_rate - _ROUNDING) - 1


def find_lower_bound(centres: Sequence[float], errors: Sequence[float], error_rate: float) -> float | None:
    """Return what a new value stays below in at most a share of the cases, in practice `error_rate`.

    Args:
        centres: for every calibration case, the estimate of the new value by the regression that has not seen
            that case.
        errors: for every calibration case, estimate minus truth, by the same regression.
        error_rate: the share, above 0 and below 1.

    Returns:
        The bound; None where there are fewer than `count_needed_cases`.
    """
    count = len(errors)
    rank = math.floor(error_rate * (count + 1) + _ROUNDING)
    if rank < 1:
        return None
    values = np.asarray(centres) - np.asarray(errors)
    return float(np.partition(values, rank - 1)[rank - 1])


def find_upper_bound(centres: Sequence[float], errors: Sequence[float], error_rate: float) -> float | None:
    """Return what a new value stays above in at most a share of the cases; see `find_lower_bound`."""
    bound = find_lower_bound([-value for value in centres], [-value for value in errors], error_rate)
    return None if bound is None else -bound


def compute_proven_rate(error_rate: float, num_cases: int, num_groups: int) -> float:
    """Return the error rate that is proven for a bound at `error_rate`: twice it, and a little more.

    Barber et al. 2021, theorem 4, for groups of equal size. Experiments, theirs and ours, find `error_rate`.
    """
    if num_cases == 0 or num_groups == 0:
        return 1.0
    size = num_cases / num_groups
    extra = min(2 * (1 - 1 / num_groups) / (size + 1), (1 - num_groups / num_cases) / (num_groups + 1))
    return min(1.0, 2 * error_rate + extra)
