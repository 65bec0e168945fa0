"""What is finished while a prediction runs: one line per mask, on the disk before the mask gets its name.

Several processes may write into one journal. Reads and writes: `.predictions.journal`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stu_pipeline.storage import storage_errors, sync_folder


class Journal:
    """A file of lines, each a JSON object with one case: `{"case_1": {...}}`.

    Args:
        path: need not exist; it is made with the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, case_id: str, entry: Mapping[str, Any]) -> None:
        """Add a line; when this returns, it is on the disk. A failure leaves the journal as it was.

        Raises:
            StorageError: the disk is full or not writable.
        """
        # ASCII, so that no character in a message is taken for the end of a line.
        line = json.dumps({case_id: dict(entry)}, allow_nan=False).encode("ascii") + b"\n"
        is_new = not self.path.exists()
        with storage_errors(self.path), self._hold() as handle:
            size = os.fstat(handle).st_size
            try:
                # Whoever was killed while writing left a line without an end.
                _write_all(handle, line if _ends_with_line(handle, size) else b"\n" + line)
                os.fsync(handle)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(handle, size)
                raise
        if is_new:
            sync_folder(self.path.parent)

    def read(self) -> list[tuple[str, dict[str, Any]]]:
        """Return cases and entries in the order they were added; torn and foreign lines are passed over."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        found: list[tuple[str, dict[str, Any]]] = []
        for line in content.split(b"\n"):
            found += _parse_line(line)
        return found

    @contextlib.contextmanager
    def fold(self) -> Iterator[list[tuple[str, dict[str, Any]]]]:
        """Give all that was added, and delete the journal when the block ends well; meanwhile nobody can add to it.

        Raises:
            StorageError: the folder is not writable.
        """
        with storage_errors(self.path), self._hold():
            yield self.read()
            self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _hold(self) -> Iterator[int]:
        """Open the file, and keep other threads and processes from writing meanwhile."""
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                # Whoever had it may have deleted it: a line in it would be lost.
                if _is_file_of(handle, self.path):
                    yield handle
                    return
            finally:
                os.close(handle)


def _is_file_of(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _ends_with_line(handle: int, size: int) -> bool:
    return size == 0 or os.pread(handle, 1, size - 1) == b"\n"


def _write_all(handle: int, data: bytes) -> None:
    # A disk that fills up takes a part of it first, without an error.
    while data:
        data = data[os.write(handle, data) :]


def _parse_line(line: bytes) -> list[tuple[str, dict[str, Any]]]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # an empty line, the torn line of a killed run, or not ours
        return []
    if not isinstance(found, dict):
        return []
    return [(name, entry) for name, entry in found.items() if isinstance(entry, dict)]
