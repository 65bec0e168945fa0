"""The bytes of the voxels inside a file, unpacked and verified: checksum, exact length, nothing behind.

SimpleITK reads a cut or bit-flipped `.nii.gz` without an error, and hands out wrong voxels from a damaged `.mha`.

Reads: the payload of `.nii.gz`, `.nii`, `.nrrd`, `.mha`.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import numpy as np
import numpy.typing as npt

from stu_pipeline.errors import DataError, MemoryLimitError

Packing = Literal["raw", "gzip", "zlib"]
Bytes = npt.NDArray[np.uint8]

GZIP_MAGIC = b"\x1f\x8b"
# The format cannot shrink data more than this, so a header that promises more is lying.
MAX_RATIO = 1032
# Beyond this size and ratio a file holds nothing but one value: a decompression bomb, or an image without content.
BOMB_BYTES = 3 << 28
BOMB_RATIO = 900
_SLACK = 1 << 16
_BLOCK = 1 << 20
# Small, because every member of a file of many gzip members costs one copy of what was fed.
_FEED = 1 << 15
_MAX_EMPTY_MEMBERS = 64
_WBITS = {"gzip": 31, "zlib": 15}


def read_payload(stream: IO[bytes], path: Path, *, start: int, packing: Packing, num_bytes: int) -> Bytes:
    """Read the payload of a file from byte `start` to its end.

    Args:
        stream: the open file.
        path: its name, for messages.
        start: first byte of the payload.
        packing: how it is compressed.
        num_bytes: its exact unpacked length, as the header says.

    Raises:
        DataError: cut, damaged, or of another length; nothing is allocated for what cannot be true.
        MemoryLimitError: it does not fit the memory.
    """
    size = os.fstat(stream.fileno()).st_size
    if packing == "raw":
        if size - start != num_bytes:
            raise damaged(path, f"has {size} bytes, expected {start + num_bytes}")
    else:
        require_plausible_size(path, packed=size - start, unpacked=num_bytes)
    data = _allocate(num_bytes, path)
    stream.seek(start)
    if packing == "raw":
        _fill(data, stream, path)
        return data
    content = stream.read()
    if not _unpack_at_once(content, data, packing):
        _unpack_step_by_step(content, data, path, start=start, packing=packing)
    return data


def read_packed_start(stream: IO[bytes], path: Path, count: int) -> bytes:
    """Unpack the first `count` bytes of a gzip file; fewer when it is shorter.

    Raises:
        DataError: it is cut or damaged before that.
    """
    stream.seek(0)
    parts: list[bytes] = []
    for block in _unpack(stream.read(_BLOCK), path, start=0, packing="gzip", limit=count):
        parts.append(block)
        if sum(map(len, parts)) >= count:
            break
    return b"".join(parts)[:count]


def require_plausible_size(path: Path, *, packed: int, unpacked: int) -> None:
    """Refuse a header that promises more than compressed bytes can hold, and decompression bombs.

    Raises:
        DataError: with both sizes.
    """
    if unpacked > packed * MAX_RATIO + _SLACK:
        raise damaged(path, f"has {packed} compressed bytes, which cannot hold the {unpacked} its header says")
    if unpacked > BOMB_BYTES and unpacked > packed * BOMB_RATIO:
        raise DataError(
            f"'{path.name}' is a decompression bomb or an empty image: {packed} bytes unpack to {unpacked}",
            where=path.parent,
            hint="if it is real, save it as uint8 or without compression",
        )


def damaged(path: Path, problem: str) -> DataError:
    """Make the error for a file whose bytes cannot be trusted."""
    return DataError(
        f"'{path.name}' {problem}", where=path.parent, hint="copy or export the file again, it may be damaged"
    )


def _allocate(num_bytes: int, path: Path) -> Bytes:
    try:
        return np.empty(num_bytes, dtype=np.uint8)
    except MemoryError as error:
        raise MemoryLimitError(
            f"not enough memory for '{path.name}', which has {num_bytes / 2**30:.1f} GiB of voxels",
            where=path.parent,
            hint="crop the image, or use a machine with more RAM",
        ) from error


def _fill(data: Bytes, stream: IO[bytes], path: Path) -> None:
    view, filled = data.data, 0
    while filled < len(view):
        count = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            raise damaged(path, f"ends after {filled} of {len(view)} bytes")
        filled += count


def _unpack_at_once(content: bytes, data: Bytes, packing: Packing) -> bool:
    """Unpack the usual file, one stream and nothing behind, three times as fast; False for any other."""
    import imagecodecs

    try:
        if packing == "gzip":
            found = imagecodecs.gzip_decode(content, out=data.data)
        else:
            found = imagecodecs.deflate_decode(content, raw=False, out=data.data)
    except (imagecodecs.DeflateError, RuntimeError, ValueError):
        return False
    # The decoder stops at the end of the first stream without saying where: its trailer must be the end of the file.
    trailer = _make_trailer(data, packing)
    return len(found) == len(data) and content.find(trailer) == len(content) - len(trailer)


def _make_trailer(data: Bytes, packing: Packing) -> bytes:
    if packing == "gzip":
        return zlib.crc32(data.data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")
    return zlib.adler32(data.data).to_bytes(4, "big")


def _unpack_step_by_step(content: bytes, data: Bytes, path: Path, *, start: int, packing: Packing) -> None:
    """Unpack whatever is allowed (several gzip members, zeros at the end), or say exactly where it fails."""
    filled = 0
    for block in _unpack(content, path, start=start, packing=packing):
        if filled + len(block) > len(data):
            raise damaged(path, f"holds more than the {len(data)} bytes its header says")
        data[filled : filled + len(block)] = np.frombuffer(block, dtype=np.uint8)
        filled += len(block)
    if filled < len(data):
        raise damaged(path, f"ends after {filled} of {len(data)} bytes")


def _unpack(content: bytes, path: Path, *, start: int, packing: Packing, limit: int = _BLOCK) -> Iterator[bytes]:
    """Yield blocks of at most `limit` bytes up to the verified end of the content."""
    view, position, num_empty, is_empty = memoryview(content), 0, 0, True
    inflate = zlib.decompressobj(wbits=_WBITS[packing])
    while True:
        fed = view[position : position + _FEED]
        try:
            block = inflate.decompress(fed, limit)
        except zlib.error as error:
            raise damaged(path, f"is damaged: {packing} fails after byte {start + position} ({error})") from error
        position += len(fed) - len(inflate.unconsumed_tail) - len(inflate.unused_data)
        is_empty = is_empty and not block
        yield block
        if inflate.eof:
            num_empty += is_empty
            if _ends_at(view[position:], path, packing=packing, num_empty=num_empty):
                return
            inflate, is_empty = zlib.decompressobj(wbits=_WBITS[packing]), True
        elif not fed and not block:
            raise damaged(path, f"is cut short: its {packing} stream has no end after {start + len(view)} bytes")


def _ends_at(rest: memoryview, path: Path, *, packing: Packing, num_empty: int) -> bool:
    """Tell whether a file may end before these bytes; False when another gzip member follows."""
    if not rest or (rest[0] == 0 and not np.frombuffer(rest, dtype=np.uint8).any()):  # padding is allowed
        return True
    if packing == "gzip" and rest[:2] == GZIP_MAGIC and num_empty <= _MAX_EMPTY_MEMBERS:
        return False
    raise damaged(path, f"has bytes after its {packing} stream that do not belong to it")
