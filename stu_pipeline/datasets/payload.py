"""The packed voxels inside NRRD and MetaImage files, verified.

SimpleITK hands out wrong voxels from a damaged compressed `.mha` and only says so on stderr, so the
compressed stream is unpacked here once, against its own checksum, before SimpleITK may read the file.

Reads: `.nrrd`, `.mha`.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from stu_pipeline.errors import DataError

_BLOCK = 1 << 20
_MAX_HEADER = 1 << 20
_GZIP = 31
_ZLIB = 15


def require_sound_payload(path: Path, ending: str) -> None:
    """Refuse an NRRD or MetaImage file whose compressed voxels are cut or damaged.

    Uncompressed voxels have no checksum; their length is checked by SimpleITK.

    Raises:
        DataError: damaged, or the voxels are in another file.
    """
    with path.open("rb") as stream:
        start = stream.read(_MAX_HEADER)
    header, offset = _split_nrrd(start) if ending == ".nrrd" else _split_mha(start)
    if offset == 0:
        raise DataError(
            f"'{path.name}' has no {ending} header", where=path.parent, hint="export the image again as .nii.gz"
        )
    data_file = header.get("data file", header.get("datafile", header.get("elementdatafile", "local")))
    if data_file.lower() != "local":
        raise DataError(
            f"'{path.name}' keeps its voxels in another file",
            where=path.parent,
            hint="save header and voxels in one file",
        )
    if header.get("encoding", "raw").lower() in ("gz", "gzip"):
        _unpack(path, offset, _GZIP)
    elif header.get("compresseddata", "false").lower() == "true":
        _unpack(path, offset, _ZLIB)


def _split_nrrd(start: bytes) -> tuple[dict[str, str], int]:
    """Return the header fields in lower case and the position of the first byte of voxels (0: no header)."""
    ends = [(position + len(mark)) for mark in (b"\n\n", b"\r\n\r\n") if (position := start.find(mark)) >= 0]
    if not start.startswith(b"NRRD") or not ends:
        return {}, 0
    return _parse_fields(start[: min(ends)], ":"), min(ends)


def _split_mha(start: bytes) -> tuple[dict[str, str], int]:
    position = start.find(b"ElementDataFile")
    end = start.find(b"\n", position)
    if position < 0 or end < 0:
        return {}, 0
    return _parse_fields(start[:end], "="), end + 1


def _parse_fields(header: bytes, separator: str) -> dict[str, str]:
    lines = header.decode("latin-1").splitlines()
    pairs = [line.partition(separator) for line in lines if separator in line and not line.startswith("#")]
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _unpack(path: Path, offset: int, wbits: int) -> None:
    inflate = zlib.decompressobj(wbits=wbits)
    with path.open("rb") as stream:
        stream.seek(offset)
        while not inflate.eof:
            waiting = inflate.unconsumed_tail or stream.read(_BLOCK)
            if not waiting:
                raise _damaged(path, f"is cut short: its compressed voxels have no end after {stream.tell()} bytes")
            try:
                inflate.decompress(waiting, _BLOCK)
            except zlib.error as error:
                raise _damaged(
                    path, f"is damaged: its compressed voxels fail near byte {stream.tell()} ({error})"
                ) from error


def _damaged(path: Path, problem: str) -> DataError:
    return DataError(f"'{path.name}' {problem}", where=path.parent, hint="copy or export the file again")
