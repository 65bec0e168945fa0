"""NIfTI files, verified: every byte is checked before a voxel is used.

SimpleITK reads a cut or bit-flipped `.nii.gz` without an error and turns NaN into 0, so the bytes are
unpacked here, against the gzip checksum and the exact length the header promises.

Reads: `.nii.gz`, `.nii`.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.volume import MAX_VOXELS
from stu_pipeline.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
# The gzip format cannot shrink data more than this, so a header that promises more is lying.
GZIP_MAX_RATIO = 1032
_BLOCK = 1 << 20
_HEADER_SIZE = 348
_HEADER_SIZE_OF_NIFTI2 = 540
_NUM_SPATIAL = 3
# As ITK decides it: a slope this small means "not set".
_SMALLEST_SLOPE = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class NiftiHeader:
    """What is needed to find and scale the voxels. `shape` is `(z, y, x)`."""

    shape: tuple[int, int, int]
    num_dimensions: int
    dtype: np.dtype[np.generic]
    offset: int
    slope: float
    intercept: float

    @property
    def num_bytes(self) -> int:
        """Exact length of the unpacked file."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def read_nifti_header(path: Path) -> NiftiHeader:
    """Read and check the header only; the voxels are not verified.

    Raises:
        DataError: not a NIfTI file, or of a kind that cannot be used (4D, RGB, complex).
    """
    with path.open("rb") as stream:
        return _parse_header(_Unpacker(stream, path).take(_HEADER_SIZE), path)


def read_nifti_voxels(path: Path) -> tuple[NiftiHeader, npt.NDArray[np.generic]]:
    """Read the stored voxels `(z, y, x)`, unscaled, in the machine's byte order.

    Raises:
        DataError: cut, damaged, longer or shorter than the header says, or of a kind that cannot be used.
    """
    with path.open("rb") as stream:
        unpacker = _Unpacker(stream, path)
        start = unpacker.take(_HEADER_SIZE)
        header = _parse_header(start, path)
        _check_promise(header, path, packed=unpacker.is_packed)
        data = np.empty(header.num_bytes, dtype=np.uint8)
        filled, block = 0, start
        while block:
            if filled + len(block) > header.num_bytes:
                raise _damaged(path, f"holds more than the {header.num_bytes} bytes its header says")
            data[filled : filled + len(block)] = np.frombuffer(block, dtype=np.uint8)
            filled += len(block)
            block = unpacker.take(_BLOCK)
    if filled < header.num_bytes:
        raise _damaged(path, f"ends after {filled} of {header.num_bytes} bytes")
    voxels = data[header.offset :].view(header.dtype).reshape(header.shape)
    return header, voxels.astype(header.dtype.newbyteorder("="), copy=False)


def scale_voxels(header: NiftiHeader, voxels: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Apply the header's slope and intercept; the result is float32, or the input when there is none.

    Computed in double precision and slice by slice, as ITK does, so the values are the same.
    """
    if not _must_scale(header):
        return voxels
    scaled = np.empty(voxels.shape, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite results are reported by the caller
        for index, part in enumerate(voxels):
            scaled[index] = part.astype(np.float64) * header.slope + header.intercept
    return scaled


def _must_scale(header: NiftiHeader) -> bool:
    if not abs(header.slope) > _SMALLEST_SLOPE:  # false for NaN as well
        return False
    return abs(header.slope - 1) > _SMALLEST_SLOPE or abs(header.intercept) > _SMALLEST_SLOPE


def _parse_header(start: bytes, path: Path) -> NiftiHeader:
    # Imported late: nibabel takes 0.2 s, and only this function needs it.
    from nibabel.nifti1 import Nifti1Header
    from nibabel.spatialimages import HeaderDataError

    _require_nifti1(start, path)
    try:
        raw = Nifti1Header.from_fileobj(BytesIO(start), check=False)
        stored = raw.get_data_dtype()
    except (HeaderDataError, ValueError, KeyError) as error:
        raise _damaged(path, f"has a header that cannot be read: {error}") from error
    dtype = _require_plain_numbers(stored, path)
    if int(raw["bitpix"]) != dtype.itemsize * 8:
        raise _damaged(path, f"says {int(raw['bitpix'])} bits per voxel for a type of {dtype.itemsize * 8}")
    num_dimensions, shape = _require_one_volume([int(value) for value in raw["dim"]], path)
    spacing = [float(value) for value in raw["pixdim"][1:4]]
    for size, value in zip(reversed(shape), spacing, strict=True):
        if size > 1 and (not math.isfinite(value) or value == 0):
            raise _damaged(path, f"has voxel sizes {', '.join(f'{v:g}' for v in spacing)} mm (x, y, z)")
    return NiftiHeader(
        shape=shape,
        num_dimensions=num_dimensions,
        dtype=dtype,
        offset=_require_offset(float(raw["vox_offset"]), path),
        slope=float(raw["scl_slope"]),
        intercept=float(raw["scl_inter"]) if math.isfinite(float(raw["scl_inter"])) else 0.0,
    )


def _require_nifti1(start: bytes, path: Path) -> None:
    sizes = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    if _HEADER_SIZE_OF_NIFTI2 in sizes:
        raise DataError(
            f"'{path.name}' is a NIfTI-2 file, which neither SimpleITK nor nnU-Net reads",
            where=path.parent,
            hint="save it as NIfTI-1",
        )
    if _HEADER_SIZE not in sizes or len(start) < _HEADER_SIZE:
        raise _damaged(path, f"is not a NIfTI file (it starts with {start[:8]!r})")
    if start[344:347] != b"n+1":
        raise _damaged(path, "is not a single-file NIfTI (its magic is missing)")


def _require_plain_numbers(dtype: np.dtype[np.generic], path: Path) -> np.dtype[np.generic]:
    if dtype.names:
        raise DataError(
            f"'{path.name}' is an RGB image, expected one number per voxel",
            where=path.parent,
            hint="save it as a grey-value image, or one file per colour: _0000, _0001, _0002",
        )
    if dtype.kind == "c":
        raise DataError(
            f"'{path.name}' holds complex numbers, expected real ones",
            where=path.parent,
            hint="save the magnitude (and the phase as a second channel)",
        )
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise DataError(
            f"'{path.name}' stores voxels as {dtype}, which is not supported",
            where=path.parent,
            hint="save it as int16 or float32",
        )
    return dtype


def _require_one_volume(dim: list[int], path: Path) -> tuple[int, tuple[int, int, int]]:
    count = dim[0]
    if not 1 <= count < len(dim) or any(size < 1 for size in dim[1 : count + 1]):
        raise _damaged(path, f"says it has dimensions {dim}")
    sizes = dim[1 : count + 1]
    num_volumes = math.prod(sizes[_NUM_SPATIAL:])
    if num_volumes > 1:
        raise DataError(
            f"'{path.name}' is {count}D and holds {num_volumes} volumes of {'x'.join(map(str, sizes[:3]))}, "
            "expected one",
            where=path.parent,
            hint="split it into one file per volume; channels are named _0000, _0001, ...",
        )
    if count < 2:
        raise _damaged(path, "has one dimension, expected two or three")
    x, y, z = (*sizes[:_NUM_SPATIAL], 1)[:_NUM_SPATIAL]
    if x * y * z > MAX_VOXELS:
        raise _damaged(path, f"says it has {x}x{y}x{z} voxels, the limit is {MAX_VOXELS}")
    return min(count, _NUM_SPATIAL), (z, y, x)


def _require_offset(offset: float, path: Path) -> int:
    if not math.isfinite(offset) or offset != int(offset) or not _HEADER_SIZE <= offset <= 1 << 30:
        raise _damaged(path, f"says its voxels start at byte {offset:g}")
    return int(offset)


def _check_promise(header: NiftiHeader, path: Path, *, packed: bool) -> None:
    size = path.stat().st_size
    if packed and header.num_bytes > size * GZIP_MAX_RATIO + _BLOCK:
        raise _damaged(path, f"has {size} bytes, which cannot hold the {header.num_bytes} its header says")
    if not packed and header.num_bytes != size:
        raise _damaged(path, f"has {size} bytes, expected {header.num_bytes}")


def _damaged(path: Path, problem: str) -> DataError:
    return DataError(
        f"'{path.name}' {problem}", where=path.parent, hint="copy or export the file again, it may be damaged"
    )


class _Unpacker:
    """Hands out the bytes of a file, unpacked when it is gzip, checking every gzip member to its end."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream = stream
        self._path = path
        magic = stream.read(2)
        stream.seek(0)
        self.is_packed = magic == GZIP_MAGIC
        if not magic:
            raise _damaged(path, "is empty")
        if self.is_packed != path.name.lower().endswith(".gz"):
            right = ".nii.gz" if self.is_packed else ".nii"
            raise DataError(
                f"'{path.name}' is {'' if self.is_packed else 'not '}gzip-compressed, unlike its name says",
                where=path.parent,
                hint=f"if it is a NIfTI file, rename it to {right}; otherwise export it again",
            )
        self._inflate = zlib.decompressobj(wbits=31)
        self._waiting = b""
        self._is_done = False

    def take(self, count: int) -> bytes:
        """Return up to `count` further bytes; b'' only at the verified end of the file."""
        if not self.is_packed:
            return self._stream.read(count)
        parts: list[bytes] = []
        missing = count
        while missing and not self._is_done:
            part = self._unpack(missing)
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _unpack(self, count: int) -> bytes:
        if not self._waiting:
            self._waiting = self._stream.read(_BLOCK)
        if not self._waiting and not self._inflate.eof:
            raise _damaged(self._path, f"is cut short: its gzip stream has no end after {self._stream.tell()} bytes")
        try:
            part = self._inflate.decompress(self._waiting, count)
        except zlib.error as error:
            position = self._stream.tell() - len(self._waiting)
            raise _damaged(self._path, f"is damaged: gzip fails after byte {position} ({error})") from error
        self._waiting = self._inflate.unconsumed_tail
        if self._inflate.eof:
            self._start_next_member()
        return part

    def _start_next_member(self) -> None:
        rest = self._inflate.unused_data + self._stream.read(_BLOCK)
        while rest and not rest.strip(b"\0"):  # padding with zeros is allowed at the end
            rest = self._stream.read(_BLOCK)
        if not rest:
            self._is_done = True
        elif rest.startswith(GZIP_MAGIC):
            self._inflate = zlib.decompressobj(wbits=31)
            self._waiting = rest
        else:
            raise _damaged(self._path, "has bytes after its gzip stream that do not belong to it")
