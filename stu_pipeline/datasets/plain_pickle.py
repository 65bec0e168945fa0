"""Load pickles that hold data only: numbers, text, containers and NumPy arrays. No code in them is run."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from stu_pipeline.datasets.plain_numpy import list_plain_numpy

PICKLE_ERRORS = (
    pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError,
    RuntimeError, TypeError, ValueError, struct.error,
)  # fmt: skip
"""What a damaged or hostile pickle raises."""


def load_plain_pickle(content: bytes) -> Any:
    """Load a pickle of data, as NumPy 1 or 2 wrote it.

    Raises:
        pickle.UnpicklingError: it names something that is no data; one of `PICKLE_ERRORS` when it is damaged.
    """
    return _PlainUnpickler(io.BytesIO(content)).load()


def load_settings_pickle(content: bytes) -> Any:
    """Load a small pickle of settings, from anywhere: what comes back is plain Python, arrays are nested lists.

    Raises:
        pickle.UnpicklingError: it names something that is no data, or would take memory out of proportion; one of
            `PICKLE_ERRORS` when it is damaged.
    """
    for operation, argument, _ in pickletools.genops(content):
        # Python makes room for as many places as the largest number says.
        if operation.name.endswith("PUT") and (not isinstance(argument, int) or argument > len(content)):
            raise pickle.UnpicklingError("it asks for more memory than its size explains")
    return _SettingsUnpickler(io.BytesIO(content)).load()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Stand for `_codecs.encode`, with which old protocols store bytes, and which can do more."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are stored as '{encoding}'")
    return text.encode("latin1")


def _make_no_bytes() -> bytes:
    """Stand for `bytes`, which old protocols call for empty ones, and which makes as many as a number says."""
    return b""


def _list_allowed() -> Mapping[tuple[str, str], Any]:
    # The functions themselves, so that no module is imported by a name from the file.
    rebuild, scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    frombuffer = np.zeros(1).__reduce_ex__(5)[0]
    allowed: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode,
        ("__builtin__", "bytes"): _make_no_bytes,
        ("collections", "OrderedDict"): OrderedDict,
    }
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray", "_reconstruct"] = rebuild
        allowed[f"{core}.multiarray", "scalar"] = scalar
        allowed[f"{core}.numeric", "_frombuffer"] = frombuffer
    return allowed


_ALLOWED = _list_allowed()


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names '{module}.{name}', which is not data")
        return _ALLOWED[module, name]


_SETTINGS: Mapping[tuple[str, str], Any] = {
    **list_plain_numpy(),
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _make_no_bytes,
    ("collections", "OrderedDict"): OrderedDict,
}


class _SettingsUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _SETTINGS:
            raise pickle.UnpicklingError(f"it names '{module}.{name}', which is not data")
        return _SETTINGS[module, name]
