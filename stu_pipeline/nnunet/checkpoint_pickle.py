"""Look through the pickle of a checkpoint before anything is made of it: which instructions and which names it uses.

torch's own restricted reading allows more names than a checkpoint needs, and the list changes with its version.
"""

from __future__ import annotations

import pickle
import struct
from typing import Final

_NUMBERS = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
ALLOWED_NAMES: Final = frozenset(
    {
        "collections OrderedDict",
        "_codecs encode",  # NumPy's bytes, in the old protocol that torch writes
        "numpy dtype",
        "numpy ndarray",
        "torch device",
        "torch Size",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        *(f"torch {name}Storage" for name in _NUMBERS),
        *(f"torch {name}" for name in _TYPES),
        *(f"{core}.multiarray {name}" for core in ("numpy.core", "numpy._core") for name in ("scalar", "_reconstruct")),
    }
)
"""Module and name of everything that a checkpoint may name."""

MAX_BYTES = 1 << 26
_START = b"\x80\x02"
_GLOBAL, _STOP = pickle.GLOBAL[0], pickle.STOP[0]
# Bytes that follow an instruction.
_FIXED = {
    **dict.fromkeys(
        b"".join((
            pickle.REDUCE, pickle.BUILD, pickle.APPEND, pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS, pickle.MARK,
            pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.NONE, pickle.NEWFALSE, pickle.NEWTRUE,
            pickle.EMPTY_TUPLE, pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.EMPTY_SET, pickle.BINPERSID,
        )),
        0,
    ),
    **dict.fromkeys(b"".join((pickle.BININT1, pickle.BINGET, pickle.BINPUT, pickle.PROTO)), 1),
    **dict.fromkeys(b"".join((pickle.BININT, pickle.LONG_BINGET, pickle.LONG_BINPUT)), 4),
    pickle.BININT2[0]: 2,
    pickle.BINFLOAT[0]: 8,
}  # fmt: skip
# Bytes of the length that follows an instruction, before as many bytes of content.
_COUNTED = {pickle.BINUNICODE[0]: 4, pickle.SHORT_BINSTRING[0]: 1, pickle.LONG1[0]: 1}


def require_plain_names(data: bytes) -> None:
    """Refuse a pickle that uses other instructions than `torch.save`, or other names than `ALLOWED_NAMES`.

    Raises:
        pickle.UnpicklingError: naming the first such instruction or name, or the pickle is cut or too long.
    """
    if len(data) > MAX_BYTES:
        raise pickle.UnpicklingError(f"its list of contents is {len(data) >> 20} MiB long")
    if not data.startswith(_START):
        raise pickle.UnpicklingError("its list of contents is cut or none of torch.save")
    steps: list[int] = [-1] * 256
    for code, size in _FIXED.items():
        steps[code] = size + 1
    place = 0
    try:
        while (code := data[place]) != _STOP:
            step = steps[code]
            place = place + step if step > 0 else _step_over(data, place, code)
    except (IndexError, struct.error) as error:
        raise pickle.UnpicklingError("its list of contents is cut") from error


def _step_over(data: bytes, place: int, code: int) -> int:
    if code == _GLOBAL:
        middle = data.find(b"\n", place)
        end = data.find(b"\n", middle + 1)
        if middle < 0 or end < 0:
            raise pickle.UnpicklingError("its list of contents is cut")
        name = data[place + 1 : end].decode("latin-1").replace("\n", " ")
        if name not in ALLOWED_NAMES:
            raise pickle.UnpicklingError(f"GLOBAL {name.replace(' ', '.')[:100]} is no data")
        return end + 1
    if code not in _COUNTED:
        raise pickle.UnpicklingError(f"instruction {code} of its list of contents is none of a checkpoint")
    size = _COUNTED[code]
    length = struct.unpack_from("<I" if size == 4 else "<B", data, place + 1)[0]
    return place + 1 + size + int(length)
