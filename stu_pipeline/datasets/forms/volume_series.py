"""4D NIfTI files that hold the channels of a case one after the other, split into one file per channel.

NIfTI stores the fourth dimension slowest, so every channel is one run of bytes: it is copied as it is, with
type and scaling, and only the header changes.

Reads: `.nii.gz`, `.nii`. Writes: `<case>_0000.nii.gz`, ...
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

from stu_pipeline.datasets.endings import NIFTI_ENDINGS, split_ending
from stu_pipeline.datasets.signature import sign_file
from stu_pipeline.datasets.volume import MAX_VOXELS
from stu_pipeline.errors import DataError
from stu_pipeline.storage import write_atomically

_HEADER_BYTES = 348
_BLOCK = 1 << 20
_COMPRESSION = 1
_NUM_SPATIAL = 3
_MARK = "split by stu "
# gzip cannot shrink more than this, so a header that promises more is lying.
_MAX_RATIO = 1032


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTask:
    """One 4D file and the files its volumes go to, in order."""

    case_id: str
    source: Path
    targets: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Series:
    header: Any
    """nibabel's header of the 4D file."""
    offset: int
    num_volumes: int
    volume_bytes: int

    @property
    def num_bytes(self) -> int:
        return self.offset + self.num_volumes * self.volume_bytes


def count_volumes(path: Path) -> int:
    """Count the 3D volumes in a file from its header; 1 for anything but 4D NIfTI files.

    Raises:
        DataError: a NIfTI file whose header cannot be read.
    """
    if split_ending(path.name)[1].lower() not in NIFTI_ENDINGS:
        return 1
    with _reading(path), _open(path) as stream:
        return _read_header(stream, path).num_volumes


def split_volumes(task: SplitTask) -> bool:
    """Write each volume of a 4D file into a file of its own; nothing is written unless all of it is sound.

    Returns:
        False when the targets were made from the same file before.

    Raises:
        DataError: the file is damaged, or holds another number of volumes.
        StorageError: a target cannot be written.
    """
    source = task.source
    mark = _MARK + hashlib.sha256(sign_file(source).encode()).hexdigest()[:32]
    if all(_is_made_from(target, mark) for target in task.targets):
        return False
    with _reading(source), _open(source) as stream:
        series = _read_header(stream, source)
        if series.num_volumes != len(task.targets):
            raise DataError(
                f"'{source.name}' holds {series.num_volumes} volumes, expected {len(task.targets)}, one per channel",
                where=source.parent,
            )
        _require_length(stream, series, source)
    with _reading(source), _open(source) as stream:
        _read_exactly(stream, series.offset, source)
        copy = functools.partial(_copy_volume, stream, _make_header(series, mark), series, source)
        for target in task.targets:
            write_atomically(target, copy)
    return True


def _open(path: Path) -> BinaryIO:
    """Open a file to read its unpacked bytes; gzip's own checksum and length are checked at its end."""
    if path.name.lower().endswith(".gz"):
        return cast(BinaryIO, gzip.open(path, "rb"))
    return path.open("rb")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, f"is damaged: {error}") from error
    except OSError as error:
        raise DataError(f"'{path.name}' cannot be read: {error.strerror}", where=path.parent) from error


def _read_header(stream: BinaryIO, path: Path) -> _Series:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.spatialimages import HeaderDataError

    start = stream.read(_HEADER_BYTES)
    try:
        header = Nifti1Header.from_fileobj(BytesIO(start), check=False)
        item_bytes = int(header.get_data_dtype().itemsize)
    except (HeaderDataError, ValueError, KeyError) as error:
        raise _damaged(path, f"has a header that cannot be read: {error}") from error
    dim = [int(size) for size in header["dim"]]
    sizes = dim[1 : dim[0] + 1]
    offset = float(header["vox_offset"])
    is_sane = start[344:347] == b"n+1" and 1 <= dim[0] < len(dim) and all(size > 0 for size in sizes)
    if not is_sane or not _HEADER_BYTES <= offset <= _BLOCK or offset != int(offset):
        raise _damaged(path, f"is not a NIfTI file that can be split (dimensions {dim}, voxels from byte {offset:g})")
    if math.prod(sizes) > MAX_VOXELS:
        raise _damaged(path, f"says it has {math.prod(sizes)} voxels, the limit is {MAX_VOXELS}")
    num_volumes = math.prod(sizes[_NUM_SPATIAL:])
    volume_bytes = math.prod(sizes[:_NUM_SPATIAL]) * item_bytes
    series = _Series(header, int(offset), num_volumes, volume_bytes)
    if series.num_bytes > path.stat().st_size * _MAX_RATIO + _BLOCK:
        raise _damaged(path, f"has {path.stat().st_size} bytes, which cannot hold the {series.num_bytes} it promises")
    return series


def _require_length(stream: BinaryIO, series: _Series, path: Path) -> None:
    length = _HEADER_BYTES
    while block := stream.read(_BLOCK):
        length += len(block)
        if length > series.num_bytes:
            break
    if length != series.num_bytes:
        found = "more" if length > series.num_bytes else str(length)
        raise _damaged(path, f"holds {found} bytes, its header says {series.num_bytes}")


def _make_header(series: _Series, mark: str) -> bytes:
    header = series.header.copy()
    dim = [int(size) for size in header["dim"]]
    header["dim"] = [_NUM_SPATIAL, *dim[1 : _NUM_SPATIAL + 1], 1, 1, 1, 1]
    header["vox_offset"] = _HEADER_BYTES + 4
    header["descrip"] = mark.encode()
    return bytes(header.binaryblock) + bytes(4)


def _copy_volume(stream: BinaryIO, header: bytes, series: _Series, source: Path, target: Path) -> None:
    missing = series.volume_bytes
    # No name and no time inside: the same volume gives the same bytes.
    with target.open("wb") as raw, gzip.GzipFile("", "wb", _COMPRESSION, raw, mtime=0) as packed:
        packed.write(header)
        while missing:
            block = _read_exactly(stream, min(_BLOCK, missing), source)
            packed.write(block)
            missing -= len(block)


def _read_exactly(stream: BinaryIO, count: int, path: Path) -> bytes:
    block = stream.read(count)
    if len(block) != count:
        raise _damaged(path, "became shorter while it was read")
    return block


def _is_made_from(target: Path, mark: str) -> bool:
    try:
        with _open(target) as stream:
            return stream.read(_HEADER_BYTES)[148:228].rstrip(b"\0") == mark.encode()
    except (OSError, EOFError, zlib.error):
        return False


def _damaged(path: Path, problem: str) -> DataError:
    return DataError(f"'{path.name}' {problem}", where=path.parent, hint="copy or export the file again")
