"""Plain Python values, as `torch.load(weights_only=True)` accepts them."""

from __future__ import annotations

from typing import Any

import numpy as np


def make_plain(value: Any) -> Any:
    """Turn NumPy scalars and arrays inside dicts, lists and tuples into Python values."""
    if isinstance(value, dict):
        return {make_plain(key): make_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [make_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(make_plain(item) for item in value)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return value
