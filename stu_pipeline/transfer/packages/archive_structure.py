"""The bytes of a zip archive, checked before anything is unpacked: nothing before, between or after its members.

A zip is found from its end, so files can hide in front of it, behind it, or in each other. Such files are refused.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from stu_pipeline.errors import ModelError

_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_SIGNATURE = b"PK\x06\x06"
_LOCATOR = struct.Struct("<4sLQL")
_LOCATOR_SIGNATURE = b"PK\x06\x07"
_LOCAL = struct.Struct("<4s5H3L2H")
_LOCAL_SIGNATURE = b"PK\x03\x04"
_DESCRIPTOR_FLAG = 0x08
# A data descriptor has 12 to 24 bytes.
_DESCRIPTOR_SIZES = (12, 16, 20, 24)
_ENCRYPTION_FLAGS = 0x01 | 0x40 | 0x2000
_PATCH_FLAG = 0x20
MAX_MEMBERS = 20_000
"""Packages with the predictions of a cross-validation hold a file per case."""
_MAX_ENTRY_BYTES = 1024


def require_few_members(stream: BinaryIO, path: Path) -> None:
    """Refuse an archive with a list of contents that no package has, before it is read.

    Raises:
        ModelError: it is no zip archive, a part of one, or its list is too long.
    """
    start, num_listed = _find_directory(stream, path)
    length = stream.seek(0, 2) - start
    if not 0 < num_listed <= MAX_MEMBERS or length > MAX_MEMBERS * _MAX_ENTRY_BYTES:
        raise refuse_archive(path, f"it lists {num_listed} members, expected 1 to {MAX_MEMBERS}")


def require_sound_structure(stream: BinaryIO, entries: Sequence[zipfile.ZipInfo], path: Path) -> None:
    """Refuse an archive whose members do not lie one after the other from the first byte to the list of contents.

    Args:
        stream: the open file; its position is changed.
        entries: what the list of contents says.
        path: for messages.

    Raises:
        ModelError: hidden or trailing bytes, members that overlap, several disks, or encryption.
    """
    start, num_listed = _find_directory(stream, path)
    if num_listed != len(entries):
        raise refuse_archive(path, f"its end counts {num_listed} members, it lists {len(entries)}")
    position = 0
    for entry in sorted(entries, key=lambda item: item.header_offset):
        if entry.flag_bits & _ENCRYPTION_FLAGS:
            raise refuse_archive(path, f"member '{entry.filename[:80]}' is encrypted")
        if entry.flag_bits & _PATCH_FLAG or entry.volume != 0:
            raise refuse_archive(path, f"member '{entry.filename[:80]}' lies in another file")
        position = _require_member(stream, entry, position, path)
    if position != start:
        raise refuse_archive(path, f"{abs(start - position)} bytes lie between its members and its list of contents")


PACKAGE_HINT = "use a package that stu weights export or nnUNetv2_export_model_to_zip wrote, or copy the file again"


def refuse_archive(path: Path, reason: str) -> ModelError:
    """Return the error for an archive that is not unpacked."""
    return ModelError(
        f"'{path.name}' is refused: {reason}",
        where=path.parent,
        hint=PACKAGE_HINT,
    )


def _find_directory(stream: BinaryIO, path: Path) -> tuple[int, int]:
    """Return where the list of contents begins and how many members the end of the archive counts."""
    size = stream.seek(0, 2)
    if size < _END.size:
        raise refuse_archive(path, "it is no zip archive")
    end = size - _END.size
    signature, disk, first_disk, here, total, length, start, comment = _END.unpack(_read(stream, end, _END.size))
    if signature != _END_SIGNATURE or comment:
        raise refuse_archive(path, "it is no zip archive, or something follows it")
    if 0xFFFF in (here, total) or 0xFFFFFFFF in (length, start):
        end, disk, first_disk, here, total, length, start = _read_end64(stream, end, path)
    if disk or first_disk or here != total:
        raise refuse_archive(path, "it is a part of an archive of several files")
    if start + length != end:
        raise refuse_archive(path, "something lies before it, or its list of contents is damaged")
    return start, total


def _read_end64(stream: BinaryIO, end: int, path: Path) -> tuple[int, int, int, int, int, int, int]:
    place = end - _LOCATOR.size
    if place < _END64.size:
        raise refuse_archive(path, "its end is damaged")
    signature, disk, offset, num_disks = _LOCATOR.unpack(_read(stream, place, _LOCATOR.size))
    if signature != _LOCATOR_SIGNATURE or disk or num_disks != 1 or offset != place - _END64.size:
        raise refuse_archive(path, "its end is damaged")
    fields = _END64.unpack(_read(stream, offset, _END64.size))
    if fields[0] != _END64_SIGNATURE or fields[1] != _END64.size - 12:
        raise refuse_archive(path, "its end is damaged")
    _, _, _, _, disk, first_disk, here, total, length, start = fields
    return offset, disk, first_disk, here, total, length, start


def _require_member(stream: BinaryIO, entry: zipfile.ZipInfo, position: int, path: Path) -> int:
    """Require that a member begins where the last one ended; return where it ends."""
    name = entry.filename[:80]
    if entry.header_offset != position:
        what = "overlaps another" if entry.header_offset < position else "has bytes before it that nothing lists"
        raise refuse_archive(path, f"member '{name}' {what}")
    header = _read(stream, position, _LOCAL.size)
    if len(header) < _LOCAL.size or header[:4] != _LOCAL_SIGNATURE:
        raise refuse_archive(path, f"member '{name}' has no header")
    fields = _LOCAL.unpack(header)
    flags, method, num_name, num_extra = fields[2], fields[3], fields[9], fields[10]
    if method != entry.compress_type or (flags ^ entry.flag_bits) & _ENCRYPTION_FLAGS:
        raise refuse_archive(path, f"member '{name}' is described in two ways")
    end = int(position + _LOCAL.size + num_name + num_extra + entry.compress_size)
    if flags & _DESCRIPTOR_FLAG:
        end += _measure_descriptor(stream, end, entry)
    return end


def _measure_descriptor(stream: BinaryIO, position: int, entry: zipfile.ZipInfo) -> int:
    """Return the size of what may follow a member that was written without knowing its size."""
    data = _read(stream, position, max(_DESCRIPTOR_SIZES))
    for size in _DESCRIPTOR_SIZES:
        marked, counts = size in (16, 24), "<QQ" if size in (20, 24) else "<LL"
        body = data[4 if marked else 0 : size]
        if len(data) < size or (marked and data[:4] != b"PK\x07\x08"):
            continue
        crc, sizes = struct.unpack_from("<L", body)[0], struct.unpack_from(counts, body, 4)
        if crc == entry.CRC and sizes == (entry.compress_size, entry.file_size):
            return size
    return 0


def _read(stream: BinaryIO, position: int, size: int) -> bytes:
    stream.seek(position)
    return stream.read(size)
