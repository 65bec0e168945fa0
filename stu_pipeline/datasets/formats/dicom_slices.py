"""Read single DICOM slices with ITK and GDCM: what runs in a child process, as their parsers are not safe.

Reads: DICOM files of one image each.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.formats.payload import damaged, require_plausible_size
from stu_pipeline.datasets.volume import MAX_VOXELS
from stu_pipeline.errors import DataError

_HEAD = 4096
_LITTLE, _BIG = b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"
# Transfer syntaxes whose pixels lie in the file as they are, with the bytes of the tag before them.
_PLAIN = {"1.2.840.10008.1.2": _LITTLE, "1.2.840.10008.1.2.1": _LITTLE, "1.2.840.10008.1.2.2": _BIG}
_IMPLICIT = "1.2.840.10008.1.2"
# Above what the process has when it starts: a slice of 16k x 16k several times over, and no more.
_MEMORY_BYTES = 6 << 30
_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceHeader:
    """What a slice says of itself. Texts are '' and numbers empty where it does not say it, or nothing sensible."""

    path: Path
    series_uid: str
    series_name: str
    modality: str
    shape: tuple[int, int]
    """Rows and columns."""
    num_frames: int
    num_components: int
    photometric: str
    bits: int
    spacing_mm: tuple[float, ...]
    """Between rows, and between columns."""
    position: tuple[float, ...]
    """`(x, y, z)` of the first voxel in mm."""
    orientation: tuple[float, ...]
    """Six cosines: along a row, and along a column."""
    slope: tuple[float, ...]
    intercept: tuple[float, ...]
    thickness_mm: tuple[float, ...]
    instance_uid: str
    moments: tuple[tuple[str, str], ...]
    """What tells apart images of one place: echo, time, b-value."""


@dataclass(frozen=True, slots=True)
class SliceRequest:
    """Files to read; headers alone, or voxels."""

    files: tuple[Path, ...]
    with_voxels: bool = False


def read_slices(request: SliceRequest) -> list[SliceHeader] | npt.NDArray[np.float32]:
    """Answer a request: headers in its order, or voxels `(z, y, x)` with each slice's own slope and intercept.

    Raises:
        DataError: a file that cannot be read, or not completely.
    """
    _limit_memory()
    return _read_voxels(request.files) if request.with_voxels else [_read_header(path) for path in request.files]


_MOMENTS = (
    ("temporal position", "0020|0100"), ("echo time", "0018|0081"), ("trigger time", "0018|1060"),
    ("b-value", "0018|9087"), ("acquisition", "0020|0012"), ("acquisition time", "0008|0032"),
    ("kernel", "0018|1210"), ("image type", "0008|0008"),
)  # fmt: skip


def _read_header(path: Path) -> SliceHeader:
    reader = _open(path)
    tags = {key: str(reader.GetMetaData(key)).strip("\0 ") for key in reader.GetMetaDataKeys()}
    size = reader.GetSize()
    return SliceHeader(
        path=path,
        series_uid=tags.get("0020|000e", ""),
        series_name=tags.get("0008|103e", ""),
        modality=tags.get("0008|0060", ""),
        shape=(int(size[1]), int(size[0])),
        num_frames=max(_read_whole(tags, "0028|0008", 1), int(size[2]) if len(size) > 2 else 1),
        num_components=_read_whole(tags, "0028|0002", 1),
        photometric=tags.get("0028|0004", ""),
        bits=_read_whole(tags, "0028|0100", 0),
        spacing_mm=_read_numbers(tags, "0028|0030", 2),
        position=_read_numbers(tags, "0020|0032", 3),
        orientation=_read_numbers(tags, "0020|0037", 6),
        slope=_read_numbers(tags, "0028|1053", 1),
        intercept=_read_numbers(tags, "0028|1052", 1),
        thickness_mm=_read_numbers(tags, "0018|0050", 1),
        instance_uid=tags.get("0008|0018", ""),
        moments=tuple((name, tags[key]) for name, key in _MOMENTS if tags.get(key)),
    )


def _read_voxels(files: Sequence[Path]) -> npt.NDArray[np.float32]:
    import SimpleITK

    planes = []
    for path in files:
        reader = _open(path)
        columns, rows = (int(size) for size in reader.GetSize()[:2])
        _require_complete(path, rows * columns, _read_whole_tag(reader, "0028|0100"))
        # Each slice with its own slope; a series reader would cut all to the number type of the first.
        reader.SetOutputPixelType(SimpleITK.sitkFloat32)
        with _reading(path):
            image = reader.Execute()
        plane = SimpleITK.GetArrayFromImage(image)
        if plane.size != rows * columns:
            raise damaged(path, f"holds {plane.size} voxels, expected {rows * columns}")
        planes.append(plane.reshape(rows, columns))
    return np.stack(planes)


def _open(path: Path) -> Any:
    import SimpleITK

    SimpleITK.ProcessObject_SetGlobalWarningDisplay(False)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("GDCMImageIO")
    with _reading(path):
        reader.ReadImageInformation()
    return reader


@contextlib.contextmanager
def _reading(path: Path) -> Any:
    try:
        yield
    except RuntimeError as error:  # the only kind SimpleITK has
        raise DataError(
            f"'{path.name}' cannot be read: it is cut, damaged, packed in an unknown way, or holds no image",
            where=path.parent,
            hint="copy or export the series again; reports, structures and segmentations belong in another folder",
        ) from error


def _require_complete(path: Path, num_voxels: int, bits: int) -> None:
    """Refuse a file that holds fewer voxels than it says: GDCM fills up what is missing and reports success."""
    num_bytes = (num_voxels * bits + 7) // 8
    if num_voxels > MAX_VOXELS:
        raise damaged(path, f"says it has {num_voxels} voxels")
    data = path.read_bytes()
    syntax = _find_transfer_syntax(data[:_HEAD])
    if syntax not in _PLAIN:
        # Cut streams are found by their decoders.
        require_plausible_size(path, packed=len(data), unpacked=num_bytes)
        return
    if not any(length >= num_bytes for length in _list_pixel_lengths(data, syntax)):
        raise damaged(path, f"holds fewer voxels than the {num_voxels} it says")


def _find_transfer_syntax(head: bytes) -> str:
    start = head.find(b"\x02\x00\x10\x00UI")
    if start < 0:
        return ""
    length = int.from_bytes(head[start + 6 : start + 8], "little")
    return head[start + 8 : start + 8 + length].decode("latin-1").strip("\0 ")


def _list_pixel_lengths(data: bytes, syntax: str) -> list[int]:
    """List the lengths of whatever looks like pixel data and ends inside the file."""
    tag, lengths, start = _PLAIN[syntax], [], -1
    skipped = 4 if syntax == _IMPLICIT else 8  # the tag, and where there is one its type
    while (start := data.find(tag, start + 1)) >= 0:
        first = start + skipped + 4
        length = int.from_bytes(data[start + skipped : first], "little" if tag == _LITTLE else "big")
        if first + length <= len(data):
            lengths.append(length)
    return lengths


def _read_numbers(tags: dict[str, str], key: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(word) for word in tags.get(key, "").split("\\"))
    except ValueError:
        return ()
    return numbers if len(numbers) == count and all(np.isfinite(numbers)) else ()


def _read_whole(tags: dict[str, str], key: str, default: int) -> int:
    text = tags.get(key, "").split("\\")[0].strip()
    return int(text) if text.isascii() and text.isdigit() else default


def _read_whole_tag(reader: Any, key: str) -> int:
    return _read_whole({key: str(reader.GetMetaData(key))} if reader.HasMetaDataKey(key) else {}, key, 8)


def _limit_memory() -> None:
    """Bound what a lying header can make this process take; Linux only."""
    if sys.platform != "linux":
        return
    import multiprocessing
    import resource

    if multiprocessing.parent_process() is None:
        return  # called in the main process, whose memory is not ours to limit
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY_BYTES, hard))
