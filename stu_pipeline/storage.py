"""Durable files: atomic writes, checksums, locks and free space.

Every file of ours is written through this module: a temporary file in the same folder, flush,
fsync, rename. A file under its final name is therefore always complete.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from stu_pipeline.errors import DataError, LockedError, StorageError

TEMPORARY_PREFIX = ".stu-tmp-"
_NOT_WRITABLE = frozenset(
    {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
    # Something else has the name of the file or of its folder, or the name is too long.
    | {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG}
)


def write_atomically(path: Path, write: Callable[[Path], None], *, suffix: str = "", num_kept: int = 0) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place.

    Args:
        path: final name. Its folder is made when missing.
        write: receives the temporary path; may use any library to write it.
        suffix: ending of the temporary name, for libraries that choose the format by it.
        num_kept: how many of the files it replaces stay, the newest as `previous_path(path)`.

    Raises:
        StorageError: the disk is full, read-only or not writable. `path` is untouched then.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_name_temporary(path), suffix=suffix or path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            sync_file(temporary)
            # mkstemp makes files private; give the mode an ordinary open() would have given.
            temporary.chmod(0o666 & ~_read_umask())
            _shift_previous(path, num_kept)
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def previous_path(path: Path, age: int = 1) -> Path:
    """Name an older copy of a file: `checkpoint_latest.pth` gives `checkpoint_latest.previous.pth`.

    >>> previous_path(Path("checkpoint_latest.pth"), 2).name
    'checkpoint_latest.previous2.pth'
    """
    return path.with_name(f"{path.stem}.previous{age if age > 1 else ''}{path.suffix}")


def remove_leftovers(target: Path) -> None:
    """Delete temporary files that a killed run left: those of one file, or all of them in a folder.

    Call it only while holding the lock under which they are written.
    """
    folder, prefix = (target, TEMPORARY_PREFIX) if target.is_dir() else (target.parent, _name_temporary(target))
    if folder.is_dir():
        for file in folder.iterdir():
            if file.name.startswith(prefix) and file.is_file():
                file.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    write_atomically(path, lambda temporary: _dump(temporary, data))


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically. Non-finite numbers are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"'{path.name}' not found", where=path.parent) from error
    except (ValueError, RecursionError) as error:  # not JSON, not text, or a number of thousands of digits
        raise DataError(f"'{path.name}' is not valid JSON: {error}", where=path) from error
    except OSError as error:
        raise DataError(f"'{path.name}' cannot be read: {error.strerror}", where=path) from error


def copy_file(source: Path, target: Path) -> None:
    """Copy a file atomically."""
    write_atomically(target, lambda temporary: _copy(source, temporary))


def move_file(source: Path, target: Path) -> None:
    """Move a finished, flushed file to its final name; its folder is not flushed (`sync_folder`).

    Raises:
        StorageError: the target cannot be written. It is untouched then.
    """
    with storage_errors(target):
        try:
            source.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            copy_file(source, target)  # the target lies on another disk
            source.unlink()


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file and flush it to the disk. A kill leaves at most a torn last line.

    Raises:
        StorageError: the disk is full or not writable.
    """
    with storage_errors(path), path.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sync_file(path: Path) -> None:
    """Flush a file's data to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries (a rename) to the disk, where the system can."""
    with contextlib.suppress(OSError):
        sync_file(path)


def measure_free_gib(path: Path) -> float:
    """Return the free disk space in GiB at `path` or its nearest existing parent."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free / 2**30


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn operating-system write failures inside the block into `StorageError`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save raises its own error when a stream fails; the system's comes before it.
        reason = error.__context__ if isinstance(error, RuntimeError) else error
        if not isinstance(reason, OSError):
            raise
        if reason.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            problem = f"no space left to write '{path.name}' ({measure_free_gib(path):.2f} GiB free)"
            raise StorageError(
                problem, where=path.parent, hint="free some space and run the same command again"
            ) from error
        if reason.errno in _NOT_WRITABLE:
            raise StorageError(f"cannot write '{path.name}': {reason.strerror}", where=path.parent) from error
        raise


@contextlib.contextmanager
def hold_lock(path: Path, *, what: str) -> Iterator[None]:
    """Hold an exclusive lock file, so that one run writes to a target at a time.

    The file says who holds it and goes when the block ends. The kernel drops the lock when the process
    dies, so a stale file never blocks.

    Raises:
        LockedError: another process holds it; the message names it.
        StorageError: the file cannot be made or the file system knows no locks.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _open_lock(path, what) as stream:
        try:
            with storage_errors(path):
                started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
                holder = f"{os.getpid()} on {platform.node() or 'this machine'} since {started}"
                os.ftruncate(stream.fileno(), 0)
                os.write(stream.fileno(), holder.encode())
            yield
        finally:
            path.unlink(missing_ok=True)


def _open_lock(path: Path, what: str) -> TextIO:
    """Open the file under `path` and lock it."""
    while True:
        with storage_errors(path):
            try:
                stream = path.open("a+", encoding="utf-8")
            except FileNotFoundError as error:  # a link to nowhere, or a disk that went away
                raise StorageError(f"cannot write '{path.name}': {error.strerror}", where=path.parent) from error
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A holder that was just done has unlinked what we opened: a lock on it keeps nobody out.
            if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                return stream
        except FileNotFoundError:
            pass
        except BlockingIOError as error:
            holder = _read_holder(stream)
            stream.close()
            raise LockedError(
                f"{what} is in use by process {holder}", where=path, hint="wait for it, or stop it"
            ) from error
        except OSError as error:
            stream.close()
            raise StorageError(f"cannot lock '{path.name}': {error.strerror}", where=path.parent) from error
        stream.close()


def _read_holder(stream: TextIO) -> str:
    # Who has just got the lock may not have put its name down yet.
    for _ in range(20):
        stream.seek(0)
        if holder := stream.read().strip():
            return holder
        time.sleep(0.05)
    return "unknown"


def _shift_previous(path: Path, num_kept: int) -> None:
    # Oldest first: a kill in between leaves a gap in the numbers, never fewer good files than one.
    for age in range(num_kept, 0, -1):
        source = path if age == 1 else previous_path(path, age - 1)
        if source.exists():
            source.replace(previous_path(path, age))


def _name_temporary(path: Path) -> str:
    # Cut, as a name may have 255 bytes at most and a random part and an ending follow.
    return f"{TEMPORARY_PREFIX}{path.name.encode()[:160].decode(errors='ignore')}-"


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _dump(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
