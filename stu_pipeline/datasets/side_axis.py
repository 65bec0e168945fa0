"""Find the array axis along which images run from the patient's right to the left.

Reads: the properties (`<case>.pkl`) of preprocessed cases, without running any code in them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.plain_pickle import PICKLE_ERRORS, load_plain_pickle
from stu_pipeline.errors import DataError

MIN_COSINE = 0.8
"""An axis runs left-right when it is within 37 degrees of it."""
_MIXED_COSINE = 0.3
_NUM_AXES = 3
_HEAD_BYTES = 1 << 16
# Protocol 4 and 5: two bytes of version, then a frame of eleven bytes' head in which the dictionary begins.
_FRAME = b"\x95"
_FRAME_START, _FRAME_END = 2, 11
_LARGE_KEY = b"\x8c\x0fclass_locations"
_CLOSE = b"u."
Cosines = tuple[float, float, float]
"""How much of each array axis `(z, y, x)` runs left-right, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideAxis:
    """The left-right axis of a set of images. Axes count from 0 in `(z, y, x)` of the arrays."""

    axis: int | None
    """None when it cannot be told."""
    unclear: tuple[int, ...] = ()
    """Axes that run left-right in some images or in part; empty when `axis` is known."""
    reason: str = ""
    """Why it cannot be told."""


def choose_side_axis(cosines: Sequence[Cosines | None]) -> SideAxis:
    """Choose the axis that runs left-right in all images; no image at all tells none.

    Args:
        cosines: of every image; None for one without geometry.
    """
    everything = tuple(range(_NUM_AXES))
    num_blind = sum(item is None for item in cosines)
    known = [item for item in cosines if item is not None]
    if num_blind or not known:
        where = f"{num_blind} of {len(cosines)} images do" if cosines else "the images do"
        return SideAxis(axis=None, unclear=everything, reason=f"{where} not say how the patient lies in them")
    main = [item.index(max(item)) for item in known]
    num_oblique = sum(max(item) < MIN_COSINE for item in known)
    if num_oblique == 0 and len(set(main)) == 1:
        return SideAxis(axis=main[0])
    mixed = {axis for item in known if max(item) < MIN_COSINE for axis in everything if item[axis] > _MIXED_COSINE}
    counts = " and ".join(f"{main.count(axis)} along axis {axis}" for axis in sorted(set(main)))
    reason = (
        f"{num_oblique} of {len(known)} images lie oblique"
        if num_oblique
        else f"left-right runs differently in the images: {counts} (z, y, x)"
    )
    return SideAxis(axis=None, unclear=tuple(sorted({*main, *mixed})), reason=reason)


def read_side_cosines(files: Iterable[Path]) -> list[Cosines | None]:
    """Read how the patient lies in preprocessed cases.

    Only the first 64 KiB of a file are read where its properties are in nnU-Net's usual order: 1000 cases take
    well under a second, whatever their number of labels.

    Args:
        files: `<case>.pkl` of each case, ours or stock nnU-Net's.

    Raises:
        DataError: a file is missing, damaged, or holds code.
    """
    return [find_side_cosines(read_geometry(file)) for file in files]


def read_geometry(file: Path) -> dict[str, Any]:
    """Read at least the geometry of a case's properties; what comes behind the geometry may be left out.

    Raises:
        DataError: the file is missing, damaged, or holds code.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
            content = _load_head(head)
            if content is None:
                content = load_plain_pickle(head + stream.read())
    except OSError as error:
        raise DataError(f"'{file.name}' cannot be read: {error.strerror}", where=file.parent) from error
    except PICKLE_ERRORS as error:
        raise DataError(
            f"'{file.name}' is damaged or holds what is no data: {error}",
            where=file.parent,
            hint="remove the case's preprocessed files and run stu plan again",
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"'{file.name}' does not hold the properties of a case", where=file.parent)
    return content


def find_side_cosines(properties: dict[str, Any]) -> Cosines | None:
    """Find how much of each array axis `(z, y, x)` runs left-right; None for flat images and without geometry."""
    known = properties.get("sitk_stuff")
    if isinstance(known, dict) and _are_numbers(known.get("direction"), _NUM_AXES**2):
        # Rows are the patient's axes, left-right first; columns are the file's axes x, y, z.
        return _normalise([float(value) for value in known["direction"][:_NUM_AXES]])
    known = properties.get("nibabel_stuff")
    if not isinstance(known, dict):
        return None
    affine: Any = known.get("reoriented_affine", known.get("original_affine"))
    rows = affine.tolist() if hasattr(affine, "tolist") else affine
    if not isinstance(rows, (list, tuple)) or len(rows) <= _NUM_AXES or not all(_are_numbers(row, 4) for row in rows):
        return None
    lengths = [math.hypot(*(row[axis] for row in rows[:_NUM_AXES])) for axis in range(_NUM_AXES)]
    return _normalise([rows[0][axis] / lengths[axis] if lengths[axis] else math.nan for axis in range(_NUM_AXES)])


def _normalise(row: list[float]) -> Cosines | None:
    """Turn the left-right row, in the file's order `x, y, z`, into cosines of `(z, y, x)`."""
    if not all(math.isfinite(value) for value in row) or not any(row):
        return None
    x, y, z = (abs(value) for value in row)
    return z, y, x


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) == count
        and all(isinstance(value, (int, float)) for value in values)
    )


def _load_head(head: bytes) -> Any:
    """Load the properties up to the voxel positions per label, which are nearly all of a file; None if not possible.

    They are the last entry of one dictionary, which is closed in their place; the frame, which would be too short,
    is left out.
    """
    end = head.find(_LARGE_KEY)
    if end < _FRAME_END or head[_FRAME_START : _FRAME_START + 1] != _FRAME:
        return None
    try:
        content = load_plain_pickle(head[:_FRAME_START] + head[_FRAME_END:end] + _CLOSE)
    except PICKLE_ERRORS:
        return None  # another order; the whole file tells what is wrong, if anything
    return content if isinstance(content, dict) and ("sitk_stuff" in content or "nibabel_stuff" in content) else None
