"""Load the archive of `torch.save` as data, without copying its tensors into memory.

Reads: `.pth` and `.model` files (a zip archive).
"""

from __future__ import annotations

import functools
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from stu_pipeline.datasets.plain_numpy import list_plain_numpy
from stu_pipeline.errors import ModelError
from stu_pipeline.nnunet.checkpoint_identity import explain_damage, open_archive
from stu_pipeline.nnunet.checkpoint_pickle import MAX_BYTES, require_plain_names

_BLOCK = 1 << 22
_MAX_ENTRIES = 100_000
_ENCRYPTED = 0x1
_MAGIC = b"PK\x03\x04"
# What a damaged or hostile pickle makes the restricted unpickler raise. Never retried with fewer restrictions.
_LOAD_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


def load_archive(path: Path) -> Any:
    """Load what a file of `torch.save` holds: tensors and plain values; NumPy's numbers become Python's.

    Every byte is checked against the archive's checksums first, which torch itself does not do. Tensors stay in the
    file until they are used, so what is kept must be copied before the file may change.

    Raises:
        ModelError: missing, cut, damaged, not such an archive, or holding anything but tensors and plain values.
    """
    pickled = _verify_archive(path)
    try:
        require_plain_names(pickled)
        with torch.serialization.safe_globals(_list_stand_ins()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except _LOAD_ERRORS as error:
        raise _refuse(path, error) from error


@functools.cache
def _list_stand_ins() -> list[Any]:
    return [(stand_in, f"{module}.{name}") for (module, name), stand_in in list_plain_numpy().items()]


def _verify_archive(path: Path) -> bytes:
    """Check every member and return the pickle."""
    with open_archive(path) as archive:
        entries = archive.infolist()
        _check_contents(path, entries)
        pickled = b""
        try:
            for entry in entries:
                if entry.filename.endswith("/data.pkl") or entry.filename == "data.pkl":
                    pickled = archive.read(entry)
                    continue
                with archive.open(entry) as stream:
                    while stream.read(_BLOCK):
                        pass
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
            raise explain_damage(path, str(error)) from error
    return pickled


def _check_contents(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise explain_damage(path, "it lists a name twice")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise explain_damage(path, "it is compressed, which torch never does")
    if any(entry.flag_bits & _ENCRYPTED for entry in entries):
        raise explain_damage(path, "it is encrypted")
    # Members that lie over one another would be read, and checked, many times.
    if len(names) > _MAX_ENTRIES or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise explain_damage(path, "its list of contents is longer than the file")
    with path.open("rb") as stream:
        if stream.read(4) != _MAGIC:
            raise explain_damage(path, "something is before the archive")
    pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1 or pickles[0].file_size > MAX_BYTES:
        raise explain_damage(path, f"it has {len(pickles)} files 'data.pkl', expected one of at most 64 MiB")


def _refuse(path: Path, error: BaseException) -> ModelError:
    if isinstance(error, pickle.UnpicklingError):
        # The first line after torch's own advice names what was refused; the advice itself would be dangerous here.
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line or "global" in line), "")
        reason = reason or ("" if "weights_only" in str(error) else str(error).splitlines()[0])
        problem = f"'{path.name}' holds more than weights and plain values, so it is refused"
        return ModelError(problem, where=path.parent, details=(reason.strip()[:200],) if reason else ())
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return explain_damage(path, first[:200])
