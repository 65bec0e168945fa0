"""Unfinished files: where they are made, so that a killed run's are found and removed, and what a bad one is called."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from stu_pipeline.errors import StorageError
from stu_pipeline.storage import TEMPORARY_PREFIX, measure_free_gib, storage_errors


def make_scratch(path: Path, *, suffix: str = ".raw") -> Path:
    """Make an empty hidden file beside a final name; `remove_leftovers` of the folder finds it.

    Raises:
        StorageError: the folder is not writable.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        start = path.name.encode()[:150].decode(errors="ignore")
        handle, name = tempfile.mkstemp(prefix=f"{TEMPORARY_PREFIX}{start}-", suffix=suffix, dir=path.parent)
        os.close(handle)
    return Path(name)


def unproven(path: Path, reason: str) -> StorageError:
    """Make the error for a file that does not hold what was written."""
    return StorageError(
        f"'{path.name}' could not be verified after writing ({measure_free_gib(path):.2f} GiB free): {reason}",
        where=path.parent,
        hint="free some space and run the same command again",
    )
