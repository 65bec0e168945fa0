"""Direction cosines: noise is repaired and said, real shear is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stu_pipeline.errors import DataError

# Headers hold single precision or few decimals; up to this a direction is taken as it is stored.
SOUND_SKEW = 1e-5
REPAIRABLE_SKEW = 1e-3

Matrix = npt.NDArray[np.float64]


def normalise_columns(matrix: Matrix) -> Matrix:
    """Scale every column of a matrix to unit length, as ITK does; columns of zeros stay.

    The sums run in ITK's order, so that the result is the same to the last bit.
    """
    unit = matrix.copy()
    for column in range(matrix.shape[1]):
        length = measure_length(matrix[:, column])
        if length:
            unit[:, column] = matrix[:, column] / length
    return unit


def measure_length(vector: npt.NDArray[np.float64]) -> float:
    """Return the length of a vector, summed in order."""
    return math.sqrt(sum(float(value) * float(value) for value in vector))


def measure_skew(direction: Matrix) -> float:
    """Measure how far the columns are from unit length and right angles; for unit columns about the angle in rad."""
    return float(np.abs(direction.T @ direction - np.eye(len(direction))).max())


def repair_direction(
    direction: Matrix, path: Path, *, name: str = "direction", details: tuple[str, ...] = ()
) -> tuple[Matrix, tuple[str, ...]]:
    """Return a direction (axes in columns) as orthonormal, and a note when it was not quite.

    Reflections are as good as rotations.

    Args:
        direction: `(n, n)`.
        path: the file, for the message.
        name: what the direction is called in the file's format.
        details: what the header says, shown when it is refused.

    Raises:
        DataError: not finite, singular, or off by more than 1e-3 rad.
    """
    if not np.isfinite(direction).all():
        problem = f"has a {name} that is not finite"
    elif abs(float(np.linalg.det(direction))) < REPAIRABLE_SKEW:
        problem = f"has a {name} that is singular: two axes are the same, or one is missing"
    elif (skew := measure_skew(direction)) <= SOUND_SKEW:
        return direction, ()
    elif skew <= REPAIRABLE_SKEW:
        # The nearest orthogonal matrix in the sense of least squares.
        left, _, right = np.linalg.svd(direction)
        return left @ right, (f"{name} is off orthonormal by {skew:.1e}, repaired",)
    else:
        problem = f"has axes that are not at right angles to each other: its {name} is off orthonormal by {skew:.2g}"
    raise DataError(
        f"'{path.name}' {problem}",
        where=path.parent,
        hint="resample the image to a plain grid, or correct the orientation in the header (sform = qform)",
        details=details,
    )
