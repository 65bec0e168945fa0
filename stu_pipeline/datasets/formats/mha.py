"""MetaImage headers (`.mha`), read without trust.

Understood: 2 or 3 dimensions (further ones of one entry are dropped), raw or zlib-compressed binary voxels in the
same file.

Reads: the header of `.mha`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO, Literal

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.formats.orientation import repair_direction
from stu_pipeline.datasets.formats.payload import damaged
from stu_pipeline.datasets.formats.stored import Stored, make_grid, require_one_number, require_one_volume
from stu_pipeline.errors import DataError

_MAX_HEADER = 1 << 20
_MAX_DIMENSIONS = 10
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip


def read_mha_header(stream: IO[bytes], path: Path) -> Stored:
    """Read and check the header of an open file; the voxels are not verified.

    Raises:
        DataError: not a MetaImage, of a kind that cannot be used, or untrue.
    """
    fields, start = _split(stream.read(_MAX_HEADER), path)
    _require_supported(fields, path)
    try:
        num_dimensions, shape, num_components = _read_sizes(fields, path)
        spacing, origin, direction = _read_position(fields)
        _require_packed_size(fields, stream.seek(0, 2) - start, path)
    except (ValueError, OverflowError) as error:
        raise damaged(path, f"has a header that cannot be read: {str(error)[:200]}") from error
    require_one_number(num_components, path)
    details = tuple(f"{name} = {fields[name][:200]}" for name in fields if name in _ROTATION_NAMES)
    cosines, notes = repair_direction(
        direction[:num_dimensions, :num_dimensions], path, name="TransformMatrix", details=details
    )
    order: Literal["<", ">"] = ">" if _is_true(_find(fields, "binarydatabyteordermsb", "elementbyteordermsb")) else "<"
    return Stored(
        grid=make_grid(
            path,
            shape,
            spacing_xyz=spacing[:num_dimensions],
            origin_xyz=origin[:num_dimensions],
            direction=cosines,
            notes=notes,
        ),
        dtype=np.dtype(_TYPES[fields["elementtype"].upper()]).newbyteorder(order),
        packing="zlib" if _is_true(fields.get("compresseddata", "")) else "raw",
        payload_start=start,
    )


_ROTATION_NAMES = ("transformmatrix", "rotation", "orientation")


def _split(start: bytes, path: Path) -> tuple[dict[str, str], int]:
    """Return the fields by their names in lower case, and the first byte after the header."""
    position = start.find(b"ElementDataFile")
    end = start.find(b"\n", position)
    if position < 0 or end < 0:
        raise DataError(
            f"'{path.name}' has no .mha header", where=path.parent, hint="export the image again as .nii.gz"
        )
    lines = [line.partition("=") for line in start[:end].decode("latin-1").splitlines()]
    return {name.strip().lower(): value.strip() for name, mark, value in lines if mark}, end + 1


def _require_supported(fields: dict[str, str], path: Path) -> None:
    hint = "export the image again as .nii.gz"
    if fields.get("elementdatafile", "").upper() != "LOCAL":
        problem, hint = "keeps its voxels in another file", "save header and voxels in one file"
    elif fields.get("objecttype", "image").lower() != "image":
        problem = f"is a MetaIO file of type '{fields['objecttype'][:40]}', expected Image"
    elif fields.get("elementtype", "").upper() not in _TYPES:
        problem = f"stores voxels as '{fields.get('elementtype', '')[:40]}', which is not supported"
    elif not _is_true(fields.get("binarydata", "true")):
        problem = "stores voxels as text, expected binary numbers"
    elif fields.get("headersize", "0") not in ("0", "-1"):
        problem = "skips bytes before its voxels, which is not supported"
    else:
        return
    raise DataError(f"'{path.name}' {problem}", where=path.parent, hint=hint)


def _read_sizes(fields: dict[str, str], path: Path) -> tuple[int, tuple[int, int, int], int]:
    sizes = [int(word) for word in fields.get("dimsize", "").split()]
    if len(sizes) != int(fields.get("ndims", "0")) or not 1 <= len(sizes) <= _MAX_DIMENSIONS:
        raise ValueError(f"NDims {fields.get('ndims')} with {len(sizes)} sizes")
    return *require_one_volume(sizes, path), int(fields.get("elementnumberofchannels", "1"))


def _read_position(fields: dict[str, str]) -> tuple[list[float], list[float], npt.NDArray[np.float64]]:
    """Return spacing, origin and direction; the file lists one axis after the other, we keep axes in columns."""
    count = int(fields["ndims"])
    spacing = _read_numbers(_find(fields, "elementspacing", "elementsize"), [1.0] * count)
    origin = _read_numbers(_find(fields, "offset", "position", "origin"), [0.0] * count)
    axes = _read_numbers(_find(fields, *_ROTATION_NAMES), [float(value) for value in np.eye(count).ravel()])
    return spacing, origin, np.array(axes).reshape(count, count).T


def _require_packed_size(fields: dict[str, str], found: int, path: Path) -> None:
    expected = int(fields.get("compresseddatasize", "0") or "0")
    if _is_true(fields.get("compresseddata", "")) and expected not in (0, found):
        raise damaged(path, f"has {found} compressed bytes, expected {expected}")


def _read_numbers(text: str, default: list[float]) -> list[float]:
    if not text:
        return default
    numbers = [float(word) for word in text.split()]
    if len(numbers) != len(default):
        raise ValueError(f"{len(numbers)} numbers, expected {len(default)}: {text[:100]}")
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"numbers that are not finite: {text[:100]}")
    return numbers


def _find(fields: dict[str, str], *names: str) -> str:
    return next((fields[name] for name in names if name in fields), "")


def _is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "t")
