"""Where a NIfTI volume lies: sform or qform, chosen as ITK chooses, in ITK's numbers.

A file with sform code 1, or with no qform, lies where its sform says. With both set and another sform code,
ITK takes the qform unless the two agree. With neither set the volume lies at the origin, unturned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.formats.orientation import measure_length, measure_skew, normalise_columns, repair_direction
from stu_pipeline.datasets.volume import DIRECTION_TOLERANCE_RAD
from stu_pipeline.errors import DataError

Matrix = npt.NDArray[np.float64]

_SCANNER = 1
# ITK's tolerances: of an sform's right angles, and of two forms that say the same.
_ITK_SKEW = 1e-4
_SAME_FORM = 1e-4
_MAX_QUATERNION_EXCESS = 1e-3
_SMALLEST_REAL_PART = 1e-7
_TO_LPS = np.array([[-1.0], [-1.0], [1.0]])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Affine:
    """One form of the header: code, and the matrix `(3, 4)` in NIfTI's axes and single precision, as doubles."""

    name: str
    code: int
    matrix: Matrix

    @property
    def is_set(self) -> bool:
        """Whether the header declares it."""
        return self.code > 0

    def describe(self) -> str:
        """Return code and rows in one line."""
        rows = " ".join("[" + " ".join(f"{value:.6g}" for value in row) + "]" for row in self.matrix)
        return f"{self.name} (code {self.code}): {rows if self.is_set else 'not set'}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Form:
    """The chosen form: origin (x, y, z) and direction `(n, n)` in ITK's axes, lengths of its axes."""

    name: str
    origin: list[float]
    direction: Matrix
    voxel_sizes: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


def make_sform(record: Any) -> Affine:
    """Take the sform of a header record as it is stored."""
    return Affine(name="sform", code=int(record["sform_code"]), matrix=_widen(record["srow"]))


def make_qform(record: Any, pixdim: list[float]) -> Affine:
    """Build the qform of a header record from its quaternion (nifti1.h, method 2)."""
    b, c, d = (float(value) for value in record["quatern"])
    excess = b * b + c * c + d * d
    matrix = np.full((3, 4), np.nan)
    if math.isfinite(excess) and excess <= 1 + _MAX_QUATERNION_EXCESS:
        real = 1 - excess
        if real < _SMALLEST_REAL_PART:
            length = math.sqrt(excess)
            a, b, c, d = 0.0, b / length, c / length, d / length
        else:
            a = math.sqrt(real)
        turn = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
            ]
        )
        hand = -1.0 if float(record["pixdim"][0]) < 0 else 1.0
        with np.errstate(over="ignore"):  # an infinite entry is refused later
            scaled = turn * np.array([pixdim[0], pixdim[1], pixdim[2] * hand])
            matrix[:, :3] = scaled.astype(np.float32)
        matrix[:, 3] = _widen(record["qoffset"])
    return Affine(name="qform", code=int(record["qform_code"]), matrix=matrix)


def choose_form(sform: Affine, qform: Affine, path: Path, *, num_dimensions: int) -> Form:
    """Choose between the two forms and repair noise.

    Args:
        sform: of the header.
        qform: of the header.
        path: the file, for messages.
        num_dimensions: 2 or 3; a flat image takes the first two rows and columns.

    Raises:
        DataError: the sform, or the form that counts, is not finite, singular or sheared.
    """
    if not (sform.is_set or qform.is_set):
        note = "no position in the header (sform and qform codes are 0), taken as the origin, unturned"
        identity = np.eye(num_dimensions)
        return Form(name="header", origin=[0.0] * 3, direction=identity, notes=(note,))
    details = (sform.describe(), qform.describe())
    if sform.is_set:
        _require_usable(sform, path, details)
    chosen, notes = _prefer(sform, qform)
    _require_usable(chosen, path, details)
    turned = _TO_LPS * chosen.matrix
    unit = normalise_columns(turned[:num_dimensions, :num_dimensions])
    direction, repairs = repair_direction(unit, path, name=chosen.name, details=details)
    return Form(
        name=chosen.name,
        origin=[float(value) + 0.0 for value in turned[:, 3]],
        direction=direction,
        voxel_sizes=tuple(measure_length(chosen.matrix[:, axis]) for axis in range(num_dimensions)),
        notes=(*notes, *repairs),
    )


def _require_usable(form: Affine, path: Path, details: tuple[str, ...]) -> None:
    problem = ""
    if not np.isfinite(form.matrix).all():
        problem = "is not finite"
    elif abs(float(np.linalg.det(_turn_of(form)))) < DIRECTION_TOLERANCE_RAD:
        problem = "is singular: two axes are the same, or one is missing"
    if problem:
        raise DataError(
            f"'{path.name}' has no valid position: its {form.name} {problem}",
            where=path.parent,
            hint="correct the orientation in the header, or export the image again",
            details=details,
        )


def _prefer(sform: Affine, qform: Affine) -> tuple[Affine, tuple[str, ...]]:
    if not qform.is_set:
        return sform, ()
    if not sform.is_set:
        return qform, ()
    skew = measure_skew(_turn_of(sform))
    if np.abs(sform.matrix - qform.matrix).max() <= _SAME_FORM and skew <= _ITK_SKEW:
        return sform, ()
    if sform.code != _SCANNER:
        return qform, _note_difference(sform, qform, used=qform)
    if _ITK_SKEW < skew <= DIRECTION_TOLERANCE_RAD:
        return qform, (f"sform is off orthonormal by {skew:.1e}, the qform is used",)
    return sform, _note_difference(sform, qform, used=sform)


def _note_difference(sform: Affine, qform: Affine, *, used: Affine) -> tuple[str, ...]:
    if not np.isfinite(qform.matrix).all():
        return ()
    turn = float(np.abs(_turn_of(sform) - _turn_of(qform)).max())
    shift = float(np.abs(sform.matrix[:, 3] - qform.matrix[:, 3]).max())
    if turn <= DIRECTION_TOLERANCE_RAD and shift <= DIRECTION_TOLERANCE_RAD:
        return ()
    return (f"sform and qform differ (directions by {turn:.2g}, origins by {shift:.3g} mm), the {used.name} is used",)


def _widen(values: npt.NDArray[np.float32]) -> Matrix:
    with np.errstate(invalid="ignore"):  # numpy warns of signalling NaN; it is refused later
        return values.astype(np.float64)


def _turn_of(form: Affine) -> Matrix:
    return normalise_columns(form.matrix[:, :3])
