"""Read where the labels of a case lie, from the properties beside its voxels, without running code from the file.

Reads: `<case>.pkl`, of ours and of stock nnU-Net.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stu_pipeline.errors import DataError
from stu_pipeline.training.sampling.crop import PlaceKey, Places

HINT = "preprocess the dataset again: stu plan DATASET"
_KEY = "class_locations"
_CACHE_BYTES = 64 << 20
_LOAD_ERRORS = (
    pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError,
    RuntimeError, TypeError, ValueError, struct.error,
)  # fmt: skip


class PlaceReader:
    """Reads the places of cases and keeps the last ones, up to 64 MiB of files.

    Args:
        folder: the preprocessed cases.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: OrderedDict[str, tuple[int, Places]] = OrderedDict()

    def __reduce__(self) -> tuple[object, ...]:
        """Leave what was kept behind when a worker process is given a copy."""
        return PlaceReader, (self._folder,)

    def read(self, case_id: str) -> Places:
        """Return the places of a case; a label it does not have has no place.

        Raises:
            DataError: the file is missing, damaged, or not of a preprocessed training case.
        """
        if case_id not in self._kept:
            self._kept[case_id] = read_places(self._folder, case_id)
            while len(self._kept) > 1 and sum(size for size, _ in self._kept.values()) > _CACHE_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(case_id)
        return self._kept[case_id][1]


def read_places(folder: Path, case_id: str) -> tuple[int, Places]:
    """Read the places of a case; return the size of the file in bytes, too.

    Raises:
        DataError: the file is missing, damaged, or not of a preprocessed training case.
    """
    path = folder / f"{case_id}.pkl"
    try:
        content = path.read_bytes()
        properties = _PlainUnpickler(io.BytesIO(content)).load()
        found = properties[_KEY]
        return len(content), {_as_key(key): np.asarray(places).reshape(-1, 4) for key, places in found.items()}
    except FileNotFoundError as error:
        raise DataError(f"case '{case_id}' has no file '{path.name}'", where=folder, hint=HINT) from error
    except _LOAD_ERRORS as error:
        problem = f"'{path.name}' of case '{case_id}' is damaged: {_describe(error)}"
        raise DataError(problem, where=folder, hint=HINT) from error


def _describe(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"it has no entry {lines[0]}" if isinstance(error, KeyError) and lines else next(iter(lines), "not readable")


def _as_key(key: Any) -> PlaceKey:
    return tuple(int(label) for label in key) if isinstance(key, tuple) else int(key)


def _list_allowed() -> Mapping[tuple[str, str], Any]:
    """List what a file of properties may name: NumPy arrays, scalars and types, under their names in NumPy 1 and 2."""
    rebuild, scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    frombuffer = np.zeros(1).__reduce_ex__(5)[0]
    allowed: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode,
        ("__builtin__", "bytes"): bytes,
        ("collections", "OrderedDict"): OrderedDict,
    }
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray", "_reconstruct"] = rebuild
        allowed[f"{core}.multiarray", "scalar"] = scalar
        allowed[f"{core}.numeric", "_frombuffer"] = frombuffer
    return allowed


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Stand for `_codecs.encode`, with which old protocols store bytes, and which can do more."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are stored as '{encoding}'")
    return text.encode("latin1")


_ALLOWED = _list_allowed()


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names '{module}.{name}', which is not data")
        return _ALLOWED[module, name]
