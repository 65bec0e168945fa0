"""What identifies the content of files, so that files that did not change need not be read again.

A mark is a SHA-256, and where it can be trusted a stamp: size, times and place as the file system knows them. Equal
stamps stand for equal content, because every write changes the time of the inode, which no program can set. Only a
write within one tick of the clock after the stamp was taken would go unnoticed, so a file that was changed that
recently gets no stamp and is read in full again (as in git's index, where such entries are called racy).

Reads: files. Writes: an empty temporary file, whose time is the file system's own clock.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import DataError
from stu_pipeline.storage import TEMPORARY_PREFIX, hash_file

# Longer than the tick of any file system in use: FAT's are 2 s, all others' are shorter.
_SETTLED_NS = 2 * 10**9
# The clock of another file system is not ours to read (it may be read-only, and on another machine).
_SETTLED_ELSEWHERE_NS = 24 * 3600 * 10**9


@dataclass(frozen=True, slots=True)
class FileMark:
    """What identifies the content of a file, or of a folder with the files directly in it."""

    sha256: str
    stamp: str | None = None
    """None: not known, or not to be trusted; the content must be read to know it."""

    def describe(self) -> dict[str, str]:
        """Return the mark as JSON values."""
        return {"sha256": self.sha256} | ({} if self.stamp is None else {"stamp": self.stamp})

    @classmethod
    def parse(cls, value: Any) -> FileMark | None:
        """Read what `describe` made, or the bare hash of a report of schema 1; None for anything else."""
        if isinstance(value, str):
            return cls(value)
        if not isinstance(value, Mapping) or not isinstance(value.get("sha256"), str):
            return None
        stamp = value.get("stamp")
        return cls(value["sha256"], stamp if isinstance(stamp, str) else None)


@dataclass(frozen=True, slots=True)
class FileClock:
    """What time it was on one file system."""

    device: int
    now_ns: int

    def is_settled(self, status: os.stat_result) -> bool:
        """Whether a file was changed so long ago that its next change has another time."""
        margin_ns = _SETTLED_NS if status.st_dev == self.device else _SETTLED_ELSEWHERE_NS
        return max(status.st_mtime_ns, status.st_ctime_ns) < self.now_ns - margin_ns


def read_file_clock(folder: Path) -> FileClock | None:
    """Return the time on the file system of a folder; None where nothing can be written."""
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(prefix=f"{TEMPORARY_PREFIX}clock-", dir=folder)
        try:
            status = os.fstat(handle)
        finally:
            os.close(handle)
            Path(name).unlink(missing_ok=True)
        return FileClock(device=status.st_dev, now_ns=status.st_mtime_ns)
    return None


def mark_inputs(case: Case, clock: FileClock | None = None) -> dict[str, FileMark]:
    """Mark the images of a case, by name; the folder of a series has one mark.

    Call it before the images are read: a file that changes in between then has another mark than the mask was made
    from, and the mask is not proven.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    return {path.name: mark_path(path, clock) for path in case.image_files}


def find_changed_input(
    case: Case, marks: Mapping[str, FileMark], clock: FileClock | None, *, is_thorough: bool
) -> tuple[str | None, dict[str, FileMark]]:
    """Compare the image files of a case with their marks.

    Args:
        case: the case as it is now.
        marks: what `mark_inputs` said when its mask was made.
        clock: decides which stamps may be trusted from now on.
        is_thorough: whether to read every file, whatever its stamp says.

    Returns:
        The name of a file that is not what it was, or None; and the marks, with stamps that could be added.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    paths = {path.name: path for path in case.image_files}
    if paths.keys() != marks.keys():
        return min(paths.keys() ^ marks.keys()), dict(marks)
    found = {}
    for name, path in paths.items():
        found[name] = check_path(path, marks[name], clock, is_thorough=is_thorough)
        if found[name].sha256 != marks[name].sha256:
            return name, dict(marks)
    return None, found


def check_path(path: Path, mark: FileMark, clock: FileClock | None, *, is_thorough: bool = False) -> FileMark:
    """Return the mark that a file or folder has now, without reading it where the stamp of its old mark still holds.

    Raises:
        DataError: it is missing or cannot be read.
    """
    with _reading(path):
        if not is_thorough and mark.stamp is not None and mark.stamp == _sign(_list_statuses(path)):
            return mark
    return mark_path(path, clock)


def mark_path(path: Path, clock: FileClock | None = None) -> FileMark:
    """Mark a file by its SHA-256, or a folder by a hash over the names and hashes of the files directly in it.

    Raises:
        DataError: it is missing or cannot be read.
    """
    with _reading(path):
        # Before the content: what changes while it is read has another stamp afterwards.
        statuses = _list_statuses(path)
        sha256 = _hash_path(path)
    is_settled = clock is not None and all(clock.is_settled(status) for _, status in statuses)
    return FileMark(sha256, _sign(statuses) if is_settled else None)


def _hash_path(path: Path) -> str:
    if not path.is_dir():
        return hash_file(path)
    digest = hashlib.sha256()
    for name, file in _list_files(path):
        digest.update(f"{name}\0{hash_file(file)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _list_files(path: Path) -> list[tuple[str, Path]]:
    """List the files of a folder by name, those in sub-folders left out; a file alone is its own list."""
    if not path.is_dir():
        return [("", path)]
    return sorted((file.name, file) for file in path.iterdir() if file.is_file())


def _list_statuses(path: Path) -> list[tuple[str, os.stat_result]]:
    return [(name, file.stat()) for name, file in _list_files(path)]


def _sign(statuses: Sequence[tuple[str, os.stat_result]]) -> str:
    lines = [f"{s.st_size}-{s.st_mtime_ns}-{s.st_ctime_ns}-{s.st_ino}-{s.st_dev}" for _, s in statuses]
    if len(lines) == 1:
        return lines[0]
    named = "\n".join(f"{name}\0{line}" for (name, _), line in zip(statuses, lines, strict=True))
    return hashlib.sha256(named.encode(errors="surrogateescape")).hexdigest()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = Path(error.filename).name if error.filename else path.name
        raise DataError(f"'{name}' cannot be read: {error.strerror}", where=path.parent) from error
