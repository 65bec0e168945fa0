"""Unpack a package of models into a staged folder, every byte checked.

Reads: the zip. Writes: files below the staged folder only.
"""

from __future__ import annotations

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stu_pipeline.datasets.dataset_json import read_strict_json
from stu_pipeline.errors import DataError, ModelError
from stu_pipeline.log import Listener, Progress
from stu_pipeline.transfer.packages.archive_contents import MANIFEST_FILE, PackageContents, list_contents
from stu_pipeline.transfer.packages.archive_structure import (
    refuse_archive,
    require_few_members,
    require_sound_structure,
)
from stu_pipeline.transfer.packages.staging import write_blocks

MANIFEST_SCHEMA = 1
_BLOCK = 1 << 22
# What a damaged archive makes the reader raise.
_ARCHIVE_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, ValueError, LookupError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackedFile:
    """What was written for one member."""

    sha256: str
    num_bytes: int


@contextlib.contextmanager
def open_package(path: Path) -> Iterator[tuple[zipfile.ZipFile, PackageContents]]:
    """Open a zip and look through its list of contents; nothing is unpacked.

    Raises:
        ModelError: missing, no zip, or holding anything but models.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise ModelError(f"'{path.name}' cannot be read: {error.strerror}", where=path.parent) from error
    with stream:
        require_few_members(stream, path)
        with _open_zip(stream, path) as archive:
            entries = archive.infolist()
            require_sound_structure(stream, entries, path)
            yield archive, list_contents(entries, path)


def unpack(
    archive: zipfile.ZipFile, contents: PackageContents, folder: Path, *, path: Path, listen: Listener
) -> dict[str, UnpackedFile]:
    """Write the files that are installed below `folder`, without the name of the dataset.

    Args:
        archive: as `open_package` gave it.
        contents: likewise.
        folder: an empty one.
        path: the archive, for messages.
        listen: receives `Progress`.

    Returns:
        What was written, by path below `folder`.

    Raises:
        ModelError: a member is damaged, or is not as large as it declares.
        StorageError: the disk is full or not writable.
    """
    written = {}
    listen(Progress(step="files", done=0, total=len(contents.installed)))
    for done, entry in enumerate(contents.installed, start=1):
        name = entry.filename.partition("/")[2]
        try:
            sha256, size = write_blocks(folder / name, _read_blocks(archive, entry))
        except _ARCHIVE_ERRORS as error:
            raise refuse_archive(path, f"member '{entry.filename}' is damaged: {error}") from error
        if size != entry.file_size:
            raise refuse_archive(path, f"member '{entry.filename}' declares {entry.file_size} bytes and holds {size}")
        written[name] = UnpackedFile(sha256=sha256, num_bytes=size)
        listen(Progress(step="files", done=done, total=len(contents.installed), item=entry.filename))
    return written


def require_manifest(folder: Path, files: Mapping[str, UnpackedFile], *, path: Path) -> bool:
    """Compare the files of an unpacked model with the list that came along; False where there is none.

    Args:
        folder: the unpacked model.
        files: what was unpacked, by path below the model.
        path: the archive, for messages.

    Raises:
        ModelError: the list is malformed, or a file is missing, unlisted or changed.
    """
    if not (folder / MANIFEST_FILE).is_file():
        return False
    listed = _read_manifest(folder / MANIFEST_FILE)
    found = {name: file for name, file in files.items() if name != MANIFEST_FILE}
    problems = [f"'{name}' is missing" for name in listed if name not in found]
    problems += [f"'{name}' is not in its list of files" for name in found if name not in listed]
    problems += [
        f"'{name}' is not what was packed, its hash differs"
        for name, file in found.items()
        if name in listed and listed[name] != {"sha256": file.sha256, "bytes": file.num_bytes}
    ]
    if problems:
        error = refuse_archive(path, problems[0])
        error.details = tuple(problems[:10]) if len(problems) > 1 else ()
        raise error
    return True


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        content = read_strict_json(path)
    except DataError as error:
        raise ModelError(error.problem, where=path) from error
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or content.get("schema") != MANIFEST_SCHEMA:
        raise ModelError(f"'{path.name}' is no list of files of this version", where=path)
    return files


@contextlib.contextmanager
def _open_zip(stream: BinaryIO, path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(stream)
    except _ARCHIVE_ERRORS as error:
        raise refuse_archive(path, f"it is damaged: {error}") from error
    with archive:
        yield archive


def _read_blocks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(entry) as stream:
        while block := stream.read(_BLOCK):
            yield block
