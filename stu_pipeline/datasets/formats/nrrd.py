"""NRRD headers, read without trust.

Understood: 2 or 3 spatial axes (further axes of one entry are dropped), raw or gzip encoding, voxels in the same
file. Refused with the remedy: several numbers per voxel, other encodings, detached data, skipped bytes.

Reads: the header of `.nrrd`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.formats.orientation import measure_length, repair_direction
from stu_pipeline.datasets.formats.payload import Packing, damaged
from stu_pipeline.datasets.formats.stored import (
    FLAT,
    NUM_SPATIAL,
    Stored,
    make_grid,
    require_one_number,
    require_one_volume,
)
from stu_pipeline.errors import DataError

_MAX_HEADER = 1 << 20
_MAX_AXES = 16
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": (
        "longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t",
    ),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}  # fmt: skip
_DTYPES = {name: kind for kind, names in _TYPES.items() for name in names}
_PACKINGS: dict[str, Packing] = {"raw": "raw", "gz": "gzip", "gzip": "gzip"}
_ORDERS: dict[str, Literal["<", ">", "="]] = {"little": "<", "big": ">", "": "="}
# Signs that turn a space into ITK's (left, posterior, superior); other spaces are taken as they are.
_SIGNS = {
    "right-anterior-superior": (-1.0, -1.0, 1.0), "ras": (-1.0, -1.0, 1.0),
    "left-anterior-superior": (1.0, -1.0, 1.0), "las": (1.0, -1.0, 1.0),
}  # fmt: skip
_SPATIAL_KINDS = ("domain", "space", "time", "???", "none")

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    size: int
    step: Vector | float
    """Step along the axis in mm: a vector in ITK's space, or just its length."""
    is_range: bool
    """The axis counts components of a voxel, not places."""


def read_nrrd_header(stream: IO[bytes], path: Path) -> Stored:
    """Read and check the header of an open file; the voxels are not verified.

    Raises:
        DataError: not NRRD, of a kind that cannot be used, or untrue.
    """
    fields, start = _split(stream.read(_MAX_HEADER), path)
    _require_supported(fields, path)
    try:
        axes = _read_axes(fields)
        origin = _read_origin(fields, len(axes))
    except (ValueError, OverflowError, IndexError) as error:
        raise damaged(path, f"has a header that cannot be read: {str(error)[:200]}") from error
    require_one_number(math.prod(axis.size for axis in axes if axis.is_range), path)
    places = [axis for axis in axes if not axis.is_range]
    num_dimensions, shape = require_one_volume([axis.size for axis in places], path)
    spacing, direction = _measure_axes(places[:num_dimensions])
    cosines, notes = repair_direction(direction, path, name="space directions", details=_describe(fields))
    order = _ORDERS[fields.get("endian", "").lower()]
    return Stored(
        grid=make_grid(
            path,
            shape,
            spacing_xyz=spacing,
            origin_xyz=[*origin, 0.0, 0.0, 0.0][:num_dimensions],
            direction=cosines,
            notes=notes,
        ),
        dtype=np.dtype(_DTYPES[_squeeze(fields["type"])]).newbyteorder(order),
        packing=_PACKINGS[fields["encoding"].lower()],
        payload_start=start,
    )


def _split(start: bytes, path: Path) -> tuple[dict[str, str], int]:
    """Return the fields by their names in lower case, and the first byte after the header."""
    ends = [position + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if (position := start.find(mark)) >= 0]
    if not start.startswith(b"NRRD") or not ends:
        raise DataError(
            f"'{path.name}' has no .nrrd header", where=path.parent, hint="export the image again as .nii.gz"
        )
    lines = start[: min(ends)].decode("latin-1").splitlines()[1:]
    pairs = [line.split(": ", 1) for line in lines if ": " in line and not line.startswith("#") and ":=" not in line]
    return {name.strip().lower(): value.strip() for name, value in pairs}, min(ends)


def _require_supported(fields: dict[str, str], path: Path) -> None:
    kind, encoding = _squeeze(fields.get("type", "")), fields.get("encoding", "").lower()
    hint = "export the image again as .nii.gz"
    if {"data file", "datafile"} & fields.keys():
        problem, hint = "keeps its voxels in another file", "save header and voxels in one file"
    elif kind not in _DTYPES:
        problem = f"stores voxels as '{kind[:40]}', which is not supported"
    elif encoding not in _PACKINGS:
        problem = f"has the encoding '{encoding[:40]}', expected raw or gzip"
    elif fields.get("endian", "").lower() not in _ORDERS or ("endian" not in fields and _DTYPES[kind][1] != "1"):
        problem = "does not say whether its numbers are big or little endian"
    elif any(fields.get(name, "0") != "0" for name in ("line skip", "lineskip", "byte skip", "byteskip")):
        problem = "skips bytes before its voxels, which is not supported"
    elif {"axis mins", "axismins", "axis maxs", "axismaxs"} & fields.keys():
        problem = "places its axes by 'axis mins', which is not supported"
    else:
        return
    raise DataError(f"'{path.name}' {problem}", where=path.parent, hint=hint)


def _read_axes(fields: dict[str, str]) -> list[_Axis]:
    sizes = [int(word) for word in fields["sizes"].split()] if "sizes" in fields else []
    if len(sizes) != int(fields.get("dimension", "0")) or not 1 <= len(sizes) <= _MAX_AXES:
        raise ValueError(f"dimension {fields.get('dimension')} with {len(sizes)} sizes")
    kinds = fields.get("kinds", "").lower().split() or ["???"] * len(sizes)
    if len(kinds) != len(sizes):
        raise ValueError(f"{len(kinds)} kinds for {len(sizes)} axes")
    steps = _read_steps(fields, len(sizes))
    return [
        _Axis(size=size, step=step, is_range=kind not in _SPATIAL_KINDS)
        for size, step, kind in zip(sizes, steps, kinds, strict=True)
    ]


def _read_steps(fields: dict[str, str], num_axes: int) -> Sequence[Vector | float]:
    if "space directions" in fields:
        words = re.findall(r"none|\([^()]*\)", fields["space directions"].lower())
        if len(words) != num_axes:
            raise ValueError(f"{len(words)} space directions for {num_axes} axes")
        return [1.0 if word == "none" else _read_vector(word, fields) for word in words]
    if "spacings" not in fields:
        return [1.0] * num_axes
    steps = [float(word) for word in fields["spacings"].split()]
    if len(steps) != num_axes or "space origin" in fields:
        raise ValueError(f"{len(steps)} spacings for {num_axes} axes, or an origin without directions")
    # ITK takes a step of NaN as "not given".
    return [1.0 if math.isnan(step) else step for step in steps]


def _read_origin(fields: dict[str, str], num_axes: int) -> list[float]:
    if "space origin" not in fields:
        return [0.0] * num_axes
    return [float(value) for value in _read_vector(fields["space origin"], fields)]


def _read_vector(word: str, fields: dict[str, str]) -> Vector:
    vector = np.array([float(number) for number in word.strip().strip("()").split(",")])
    if not FLAT <= len(vector) <= NUM_SPATIAL:
        raise ValueError(f"a vector of {len(vector)} numbers")
    signs = _SIGNS.get(fields.get("space", "").lower())
    return vector * np.array(signs) if signs and len(vector) == NUM_SPATIAL else vector


def _measure_axes(axes: list[_Axis]) -> tuple[list[float], Vector]:
    """Return the length of every axis' step, and the unit steps in the columns of a matrix."""
    count = len(axes)
    spacing, direction = [], np.eye(count)
    for index, axis in enumerate(axes):
        if isinstance(axis.step, float):
            spacing.append(axis.step)
            continue
        vector = np.resize(axis.step, count)
        spacing.append(measure_length(vector))
        if spacing[-1]:
            direction[:, index] = vector * (1.0 / spacing[-1])  # NrrdIO multiplies, and so the last bit is the same
    return spacing, direction


def _describe(fields: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}: {fields[name][:200]}" for name in ("space", "space directions") if name in fields)


def _squeeze(text: str) -> str:
    return " ".join(text.lower().split())
