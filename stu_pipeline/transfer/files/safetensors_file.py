"""Read `.safetensors`: a list of tensors in JSON, then their bytes.

Reads: `<name>.safetensors`.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from stu_pipeline.errors import ModelError

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 1 << 24


def looks_like_safetensors(path: Path) -> bool:
    """Tell whether a file starts as one of these does."""
    with path.open("rb") as stream:
        return stream.read(_LENGTH_BYTES + 1)[_LENGTH_BYTES:] == b"{"


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors onto the CPU.

    Raises:
        ModelError: cut, damaged, or not exactly such a file from the first byte to the last.
    """
    _check_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as content:
            return {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise _explain(path, str(error)[:200]) from error


def _check_header(path: Path) -> None:
    """Refuse headers that are too long to be made sense of, or that name a tensor twice."""
    with path.open("rb") as stream:
        start = stream.read(_LENGTH_BYTES)
        length = struct.unpack("<Q", start)[0] if len(start) == _LENGTH_BYTES else 0
        if not 0 < length <= min(_MAX_HEADER_BYTES, path.stat().st_size - _LENGTH_BYTES):
            raise _explain(path, f"its header says that it is {length} bytes long")
        header = stream.read(length)
    try:
        json.loads(header, object_pairs_hook=_refuse_doubles)
    except (ValueError, RecursionError) as error:
        raise _explain(path, str(error)[:200]) from error


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("its header lists a name twice")
    return content


def _explain(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"'{path.name}' is damaged or no file of weights: {reason}",
        where=path.parent,
        hint="copy the file again, or use another one",
    )
