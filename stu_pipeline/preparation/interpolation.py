"""One-dimensional interpolation between grids that share their outer edges, as nnU-Net's resampling does it.

Sample `k` of the new grid lies at `(k + 0.5) * size_in / size_out - 0.5` of the old one. Beyond its ends the
old grid is continued with its edge values. Numbers equal those of `scipy.ndimage.zoom(mode="nearest",
grid_mode=True)`, which nnU-Net uses through scikit-image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.intp]

SPLINE_ORDERS = (0, 1, 3)
# scipy continues the edge value for this many samples before it solves for the spline.
_EDGE_SAMPLES = 12
# Entries of a cubic operator below this are left out: they fall by a factor 0.27 per sample.
_NEGLIGIBLE = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class LinearCorners:
    """The two old samples around each new one, and their weights; equal samples where one weight is zero."""

    lower: IndexArray
    upper: IndexArray
    lower_weight: FloatArray
    upper_weight: FloatArray


def find_nearest(size_in: int, size_out: int) -> IndexArray:
    """Return the index of the old sample nearest to each new one; halfway the upper one."""
    return np.floor(_clamped_positions(size_in, size_out) + 0.5).astype(np.intp)


@lru_cache(maxsize=64)
def find_corners(size_in: int, size_out: int) -> LinearCorners:
    """Return the neighbours and weights of linear interpolation."""
    positions = _clamped_positions(size_in, size_out)
    floor = np.floor(positions)
    lower = floor.astype(np.intp)
    # As scipy rounds: the lower weight first, the upper one as what is missing to 1. Ties depend on it.
    lower_weight = 1.0 - (positions - floor)
    upper_weight = 1.0 - lower_weight
    upper = np.where(upper_weight > 0, np.minimum(lower + 1, size_in - 1), lower)
    return LinearCorners(lower=lower, upper=upper, lower_weight=lower_weight, upper_weight=upper_weight)


@lru_cache(maxsize=64)
def make_operator(size_in: int, size_out: int, order: int) -> FloatArray:
    """Return the matrix `(size_out, size_in)` that interpolates a line of samples with a spline.

    Args:
        size_in: samples of the old grid.
        size_out: samples of the new grid.
        order: 0, 1 or 3.
    """
    operator = np.zeros((size_out, size_in))
    rows = np.arange(size_out)
    if order == 0:
        operator[rows, find_nearest(size_in, size_out)] = 1
    elif order == 1:
        corners = find_corners(size_in, size_out)
        np.add.at(operator, (rows, corners.lower), corners.lower_weight)
        np.add.at(operator, (rows, corners.upper), corners.upper_weight)
    elif order == 3:
        operator = _make_cubic_operator(size_in, size_out)
    else:
        raise ValueError(f"order must be one of {SPLINE_ORDERS}, got {order}")
    operator.flags.writeable = False
    return operator


def _positions(size_in: int, size_out: int) -> FloatArray:
    positions: FloatArray = (np.arange(size_out, dtype=np.float64) + 0.5) * (size_in / size_out) - 0.5
    return positions


def _clamped_positions(size_in: int, size_out: int) -> FloatArray:
    return np.clip(_positions(size_in, size_out), 0.0, size_in - 1.0)


def _make_cubic_operator(size_in: int, size_out: int) -> FloatArray:
    coefficients = _solve_cubic_coefficients(size_in)
    positions = _positions(size_in, size_out) + _EDGE_SAMPLES
    lower = np.floor(positions).astype(np.intp)
    fraction = (positions - lower)[:, None]
    rest = 1.0 - fraction
    # The cubic B-spline at distances 1 + f, f, 1 - f and 2 - f.
    operator = (
        rest**3 / 6 * coefficients[lower - 1]
        + (4 - 3 * fraction**2 * (2 - fraction)) / 6 * coefficients[lower]
        + (4 - 3 * rest**2 * (2 - rest)) / 6 * coefficients[lower + 1]
        + fraction**3 / 6 * coefficients[lower + 2]
    )
    operator[np.abs(operator) < _NEGLIGIBLE] = 0
    return operator.astype(np.float64, copy=False)


@lru_cache(maxsize=16)
def _solve_cubic_coefficients(size: int) -> FloatArray:
    """Return the matrix `(size + 24, size)` from samples to B-spline coefficients.

    The samples are continued with their edge values, the coefficients beyond that mirrored. A cubic spline
    has `(c[i-1] + 4 c[i] + c[i+1]) / 6` at its knots: a tridiagonal system, solved for all columns at once.
    """
    length = size + 2 * _EDGE_SAMPLES
    solution = np.zeros((length, size))
    solution[np.arange(length), np.clip(np.arange(length) - _EDGE_SAMPLES, 0, size - 1)] = 6
    above = np.zeros(length)
    above[0] = 2 / 4
    solution[0] /= 4
    for row in range(1, length):
        below = 2.0 if row == length - 1 else 1.0
        pivot = 4.0 - below * above[row - 1]
        above[row] = 1 / pivot
        solution[row] = (solution[row] - below * solution[row - 1]) / pivot
    for row in range(length - 2, -1, -1):
        solution[row] -= above[row] * solution[row + 1]
    return solution
