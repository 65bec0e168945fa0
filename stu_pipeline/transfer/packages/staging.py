"""All or nothing: folders are filled beside their place, then renamed; what was there is kept until they are in place.

Writes: `.stu-tmp-package-*` and `.stu-old-*` beside the target while it works; a killed run leaves them to the next.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from stu_pipeline.errors import StorageError, UsageError
from stu_pipeline.storage import TEMPORARY_PREFIX, hold_lock, measure_free_gib, storage_errors, sync_file, sync_folder

_LOCK = ".stu-package.lock"
_STAGING_PREFIX = f"{TEMPORARY_PREFIX}package-"
_ASIDE_PREFIX = ".stu-old-"
_SPARE_BYTES = 1 << 24


@contextlib.contextmanager
def open_staging(root: Path) -> Iterator[Path]:
    """Lock a folder for one writer of models and give an empty folder inside it that goes when the block ends.

    What a killed run left is cleaned first: half a model goes, one that was only moved aside comes back. Folders
    that were made for this and stay empty go, too.

    Raises:
        LockedError: another process puts models there.
        StorageError: the folder cannot be written.
    """
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        with hold_lock(root / _LOCK, what=f"the folder '{root.name}'"), storage_errors(root / "a model"):
            _clean(root)
            staging = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=root))
            try:
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    finally:
        with contextlib.suppress(OSError):  # not empty: something was put in place
            for folder in made:
                folder.rmdir()


def require_free(targets: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse targets that are there, unless they may be replaced.

    Raises:
        UsageError: naming those that are in the way.
    """
    there = [target for target in targets if _exists(target)]
    if there and not overwrite:
        names = ", ".join(f"'{target.name}'" for target in there)
        verb = "is" if len(there) == 1 else "are"
        raise UsageError(f"{names} {verb} there already", where=there[0].parent, hint="--overwrite replaces it")


def place_folders(moves: Mapping[Path, Path], staging: Path, *, overwrite: bool) -> None:
    """Move staged folders to their places beside the staging: all of them, or none.

    What they replace is moved aside, and goes only when every new folder is in place.

    Args:
        moves: target by staged folder.
        staging: as `open_staging` gave it; the targets lie in its parent.
        overwrite: whether what is there may be replaced.

    Raises:
        UsageError: a target is there and may not be replaced.
        StorageError: a folder cannot be moved; everything is as it was.
    """
    require_free(list(moves.values()), overwrite=overwrite)
    for staged in moves:
        _sync_tree(staged)
    root = staging.parent
    placed: list[Path] = []
    aside: Path | None = None
    with storage_errors(root / "a model"):
        try:
            if any(_exists(target) for target in moves.values()):
                aside = Path(tempfile.mkdtemp(prefix=_ASIDE_PREFIX, dir=root))
            for staged, target in moves.items():
                if aside is not None and _exists(target):
                    target.replace(aside / target.name)
                staged.replace(target)
                placed.append(target)
        except BaseException:
            for target in placed:
                target.replace(staging / f"undone-{target.name}")
            if aside is not None:
                _restore(aside)
            raise
        sync_folder(root)
        if aside is not None:
            # Under the other name it is no model any more that a cleaning would bring back.
            aside.replace(staging / "replaced")


def require_space(root: Path, num_bytes: int) -> None:
    """Refuse to begin where the disk has too little room.

    Raises:
        StorageError: naming what is needed and what is free.
    """
    free = measure_free_gib(root)
    if free * 2**30 < num_bytes + _SPARE_BYTES:
        raise StorageError(
            f"no space left: {num_bytes / 2**30:.2f} GiB are needed, {free:.2f} GiB are free",
            where=root,
            hint="free some space and run the same command again",
        )


def write_blocks(path: Path, blocks: Iterable[bytes]) -> tuple[str, int]:
    """Write blocks into a new file of a staged folder and return its SHA-256 and size in bytes.

    Raises:
        StorageError: the disk is full or not writable.
    """
    digest, size = hashlib.sha256(), 0
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as stream:
            for block in blocks:
                digest.update(block)
                size += len(block)
                stream.write(block)
    return digest.hexdigest(), size


def _clean(root: Path) -> None:
    for entry in sorted(root.iterdir()):
        if entry.is_symlink() or not entry.is_dir():
            continue
        if entry.name.startswith(_ASIDE_PREFIX):
            _restore(entry)
        elif entry.name.startswith(_STAGING_PREFIX):
            shutil.rmtree(entry)


def _restore(aside: Path) -> None:
    """Put what was moved aside back to its place, unless a new one is there, and remove the rest."""
    for kept in sorted(aside.iterdir()):
        target = aside.parent / kept.name
        if not _exists(target):
            kept.replace(target)
    shutil.rmtree(aside)


def _sync_tree(folder: Path) -> None:
    with storage_errors(folder):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                sync_file(path)
            else:
                sync_folder(path)
        sync_folder(folder)


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()
