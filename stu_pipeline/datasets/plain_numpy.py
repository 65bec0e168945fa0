"""NumPy values inside a pickle as plain Python values: what stands for NumPy's functions while one is read.

None of NumPy's own functions is called with a state from a file: arrays of objects, broken type descriptions and
sizes that do not fit are refused here.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

_KINDS = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f[248])")
_ORDERS = ("<", ">", "=", "|")
_MAX_ELEMENTS = 1_000_000


class PlainDtype:
    """Stands for `numpy.dtype`: a number or truth value of fixed size."""

    def __init__(self, code: str, *_: object) -> None:
        if not isinstance(code, str) or not _KINDS.fullmatch(code):
            raise pickle.UnpicklingError(f"global numpy.dtype of '{str(code)[:20]}' holds more than numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take the byte order; fields are refused."""
        order, more = state[1], state[2:5]
        if order not in _ORDERS or any(item is not None for item in more):
            raise pickle.UnpicklingError("global numpy.dtype has fields")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder(order)


class PlainArray(list[Any]):
    """Stands for `numpy.ndarray`: its values as nested lists; a single value is a list of one."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take the values, where their number fits the shape."""
        _, shape, kind, is_fortran, content = state
        is_shape = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
        if not is_shape or not isinstance(kind, PlainDtype) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("global numpy.ndarray holds more than numbers")
        count = math.prod(shape)
        if count > _MAX_ELEMENTS or count * kind.dtype.itemsize != len(content):
            raise pickle.UnpicklingError(f"global numpy.ndarray of shape {shape} has {len(content)} bytes")
        array = np.frombuffer(content, kind.dtype).reshape(shape, order="F" if is_fortran else "C")
        self[:] = array.tolist() if array.ndim else [array.item()]


def list_plain_numpy() -> dict[tuple[str, str], Callable[..., Any]]:
    """Return what stands for which name of NumPy, by module and name."""
    stand_ins: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "dtype"): PlainDtype,
        ("numpy", "ndarray"): PlainArray,
    }
    for core in ("numpy.core", "numpy._core"):
        stand_ins[f"{core}.multiarray", "scalar"] = _make_scalar
        stand_ins[f"{core}.multiarray", "_reconstruct"] = _make_array
    return stand_ins


def _make_scalar(kind: object, content: object) -> Any:
    if not isinstance(kind, PlainDtype) or not isinstance(content, bytes) or len(content) != kind.dtype.itemsize:
        raise pickle.UnpicklingError("global numpy scalar is no number")
    return np.frombuffer(content, kind.dtype)[0].item()


def _make_array(kind: object, *_: object) -> PlainArray:
    if kind is not PlainArray:
        raise pickle.UnpicklingError("global numpy._reconstruct of something that is no array")
    return PlainArray()
