"""NIfTI-1 headers, read without trust: every number is checked before anything is allocated.

Reads: the first 348 bytes of `.nii.gz` and `.nii`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO, Literal

import numpy as np

from stu_pipeline.datasets.formats.nifti_orientation import Form, choose_form, make_qform, make_sform
from stu_pipeline.datasets.formats.payload import GZIP_MAGIC, damaged, read_packed_start
from stu_pipeline.datasets.formats.stored import NUM_SPATIAL, Stored, make_grid, require_one_volume
from stu_pipeline.errors import DataError

_HEADER_SIZE = 348
_HEADER_SIZE_OF_NIFTI2 = 540
_MAX_OFFSET = 1 << 30
# The NIfTI-1 fields that matter here: name, type, first byte.
_FIELDS: tuple[tuple[str, str, int], ...] = (
    ("dim", "8i2", 40), ("datatype", "i2", 70), ("bitpix", "i2", 72), ("pixdim", "8f4", 76),
    ("vox_offset", "f4", 108), ("scl_slope", "f4", 112), ("scl_inter", "f4", 116), ("xyzt_units", "u1", 123),
    ("qform_code", "i2", 252), ("sform_code", "i2", 254), ("quatern", "3f4", 256), ("qoffset", "3f4", 268),
    ("srow", "(3,4)f4", 280),
)  # fmt: skip
_LAYOUT = np.dtype(
    {
        "names": [name for name, _, _ in _FIELDS],
        "formats": [kind for _, kind, _ in _FIELDS],
        "offsets": [start for _, _, start in _FIELDS],
        "itemsize": _HEADER_SIZE,
    }
)
_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_COLOUR_TYPES = (128, 2304)
_COMPLEX_TYPES = (32, 1792, 2048)
_SPACE_UNITS = 0x07
_MM_PER_UNIT = {1: 1e3, 3: 1e-3}
_SIZE_TOLERANCE = 1e-3

_Record = np.void
_Order = Literal["<", ">"]


def read_nifti_header(stream: IO[bytes], path: Path) -> Stored:
    """Read and check the header of an open file; the voxels are not verified.

    Spacing, origin and direction are SimpleITK's to the last bit where SimpleITK reads the file.

    Raises:
        DataError: not NIfTI-1, of a kind that cannot be used (4D, RGB, complex, sheared), or untrue.
    """
    start, is_packed = _read_start(stream, path)
    record, order = _parse(start, path)
    dtype = _require_plain_numbers(int(record["datatype"]), path).newbyteorder(order)
    if int(record["bitpix"]) != dtype.itemsize * 8:
        raise damaged(path, f"says {int(record['bitpix'])} bits per voxel for a type of {dtype.itemsize * 8}")
    num_dimensions, shape = _require_one_volume([int(value) for value in record["dim"]], path)
    offset = _require_offset(float(record["vox_offset"]), path)
    pixdim, notes = _read_pixdim(record, shape, num_dimensions, path)
    form = choose_form(make_sform(record), make_qform(record, pixdim), path, num_dimensions=num_dimensions)
    scale = _MM_PER_UNIT.get(int(record["xyzt_units"]) & _SPACE_UNITS, 1.0)
    slope, intercept = _read_scaling(record, path)
    return Stored(
        grid=make_grid(
            path,
            shape,
            spacing_xyz=[value * scale for value in pixdim[:num_dimensions]],
            origin_xyz=form.origin[:num_dimensions],
            direction=form.direction,
            notes=(*notes, *form.notes, *_compare_sizes(form, pixdim)),
        ),
        dtype=dtype,
        packing="gzip" if is_packed else "raw",
        payload_start=0 if is_packed else offset,
        voxels_start=offset if is_packed else 0,
        slope=slope,
        intercept=intercept,
    )


def _read_start(stream: IO[bytes], path: Path) -> tuple[bytes, bool]:
    start = stream.read(_HEADER_SIZE)
    is_packed = start.startswith(GZIP_MAGIC)
    if is_packed != path.name.lower().endswith(".gz"):
        right = ".nii.gz" if is_packed else ".nii"
        raise DataError(
            f"'{path.name}' is {'' if is_packed else 'not '}gzip-compressed, unlike its name says",
            where=path.parent,
            hint=f"if it is a NIfTI file, rename it to {right}; otherwise export it again",
        )
    return (read_packed_start(stream, path, _HEADER_SIZE) if is_packed else start), is_packed


def _parse(start: bytes, path: Path) -> tuple[_Record, _Order]:
    sizes: dict[_Order, int] = {"<": int.from_bytes(start[:4], "little"), ">": int.from_bytes(start[:4], "big")}
    if _HEADER_SIZE_OF_NIFTI2 in sizes.values():
        raise DataError(
            f"'{path.name}' is a NIfTI-2 file, which neither SimpleITK nor nnU-Net reads",
            where=path.parent,
            hint="save it as NIfTI-1",
        )
    if _HEADER_SIZE not in sizes.values() or len(start) < _HEADER_SIZE:
        raise damaged(path, f"is not a NIfTI file (it starts with {start[:8]!r})")
    if start[344:348] != b"n+1\0":
        raise damaged(path, "is not a single-file NIfTI (its magic is missing)")
    order = next(order for order, size in sizes.items() if size == _HEADER_SIZE)
    record: _Record = np.frombuffer(start, dtype=_LAYOUT.newbyteorder(order))[0]
    return record, order


def _require_plain_numbers(code: int, path: Path) -> np.dtype[np.generic]:
    if code in _TYPES:
        return np.dtype(_TYPES[code])
    if code in _COLOUR_TYPES:
        problem = "is an RGB image, expected one number per voxel"
        hint = "save it as a grey-value image, or one file per colour: _0000, _0001, _0002"
    elif code in _COMPLEX_TYPES:
        problem = "holds complex numbers, expected real ones"
        hint = "save the magnitude (and the phase as a second channel)"
    else:
        problem, hint = f"stores voxels as type {code}, which is not supported", "save it as int16 or float32"
    raise DataError(f"'{path.name}' {problem}", where=path.parent, hint=hint)


def _require_one_volume(dim: list[int], path: Path) -> tuple[int, tuple[int, int, int]]:
    count = dim[0]
    if not 1 <= count < len(dim):
        raise damaged(path, f"says it has dimensions {dim}")
    return require_one_volume(dim[1 : count + 1], path)


def _require_offset(offset: float, path: Path) -> int:
    if not math.isfinite(offset) or offset != int(offset) or not _HEADER_SIZE <= offset <= _MAX_OFFSET:
        raise damaged(path, f"says its voxels start at byte {offset:g}")
    return int(offset)


def _read_pixdim(
    record: _Record, shape: tuple[int, int, int], num_dimensions: int, path: Path
) -> tuple[list[float], tuple[str, ...]]:
    """Return the voxel sizes (x, y, z) in the header's unit; along an axis of one voxel a missing one is 1."""
    sizes, notes = [float(value) for value in record["pixdim"][1 : NUM_SPATIAL + 1]], []
    for axis, (name, count) in enumerate(zip("xyz", reversed(shape), strict=True)):
        if axis < num_dimensions and math.isfinite(sizes[axis]) and sizes[axis] > 0:
            continue
        if count > 1:
            raise damaged(path, f"has voxel sizes {', '.join(f'{v:g}' for v in sizes)} mm (x, y, z)")
        if axis < num_dimensions:
            notes.append(f"voxel size {sizes[axis]:g} along {name}, which has one voxel, taken as 1")
        sizes[axis] = 1.0
    return sizes, tuple(notes)


def _read_scaling(record: _Record, path: Path) -> tuple[float, float]:
    """Return slope and intercept as ITK takes them: NaN means not set, and a slope of 0 means 1."""
    slope, intercept = (float(record[name]) for name in ("scl_slope", "scl_inter"))
    if math.isinf(slope) or math.isinf(intercept):
        raise damaged(path, f"says its values are scaled by {slope:g} and {intercept:g}")
    if math.isnan(slope) or abs(slope) < np.finfo(np.float64).eps:
        slope = 1.0
    return slope, 0.0 if math.isnan(intercept) else intercept


def _compare_sizes(form: Form, pixdim: list[float]) -> tuple[str, ...]:
    """Note when the chosen form scales the axes unlike pixdim, which is what counts."""
    pairs = list(zip(form.voxel_sizes, pixdim, strict=False))
    if all(abs(a - b) <= _SIZE_TOLERANCE * max(a, b) for a, b in pairs):
        return ()
    own, used = (", ".join(f"{value:.4g}" for value in column) for column in zip(*pairs, strict=True))
    return (f"voxel sizes {own} of the {form.name} differ from pixdim {used} (x, y, z), pixdim is used",)
