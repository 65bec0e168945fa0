"""Label ids with gaps, and the consecutive ids the network sees in their place.

nnU-Net wants labels 0, 1, 2, ... and stores them as int16. A dataset may name any ids from 0 to 65535; the
table between the two travels in `dataset.json` under `stu_label_ids`, and masks are written with the ids of
the dataset.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.errors import DataError

LABEL_IDS_KEY = "stu_label_ids"
MAX_LABEL = 65535
# What int16 holds, 0 included: nnU-Net stores consecutive ids in it.
MAX_NUM_LABELS = 32768
_MAX_BYTE = 255
_NO_LABEL = 65535
_MAX_SHOWN = 8

LabelArray = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, slots=True)
class LabelIds:
    """The ids of a dataset, ascending from 0. The place of an id in it is its consecutive id.

    >>> LabelIds((0, 3, 300)).to_original(np.array([0, 2, 1])).tolist()
    [0, 300, 3]
    """

    original: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse a table that is none: a bug of the caller, user input is asked with `check_label_ids` first."""
        if problem := check_label_ids(self.original):
            raise ValueError(problem)

    def to_consecutive(self, array: npt.NDArray[Any]) -> LabelArray:
        """Replace original ids by consecutive ones, as uint8 (up to 256 labels) or uint16; any shape.

        Raises:
            DataError: values that the dataset does not name, with their counts. A check that reports instead
                of raising asks `count_unknown` first.
        """
        if unknown := self.count_unknown(array):
            shown = [f"{count} voxels of label {value}" for value, count in list(unknown.items())[:_MAX_SHOWN]]
            more = f" and {len(unknown) - _MAX_SHOWN} more labels" if len(unknown) > _MAX_SHOWN else ""
            raise DataError(f"has {', '.join(shown)}{more}, which dataset.json does not name")
        kind = np.uint8 if len(self.original) <= _MAX_BYTE + 1 else np.uint16
        consecutive: LabelArray = self._lookup(array).astype(kind)
        return consecutive

    def to_original(self, array: npt.NDArray[Any]) -> LabelArray:
        """Replace consecutive ids by original ones, as uint8 (largest id 255) or uint16; any shape."""
        table = np.array(self.original, dtype=np.uint8 if self.original[-1] <= _MAX_BYTE else np.uint16)
        original: LabelArray = table[array]
        return original

    def count_unknown(self, array: npt.NDArray[Any]) -> dict[int, int]:
        """Return how many voxels hold each value that is no original id, ascending; empty when all are known."""
        if array.size == 0:
            return {}
        if int(array.min()) >= 0 and int(array.max()) <= MAX_LABEL and not (self._lookup(array) == _NO_LABEL).any():
            return {}
        values, counts = np.unique(array, return_counts=True)
        known = set(self.original)
        return {int(value): int(count) for value, count in zip(values, counts, strict=True) if int(value) not in known}

    def _lookup(self, array: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
        table = np.full(MAX_LABEL + 1, _NO_LABEL, dtype=np.uint16)
        table[list(self.original)] = np.arange(len(self.original), dtype=np.uint16)
        consecutive: npt.NDArray[np.uint16] = table[array]
        return consecutive


def make_label_ids(values: Iterable[int]) -> LabelIds | None:
    """Return the table for a set of label values; None when they are 0, 1, 2, ... already."""
    original = tuple(sorted(set(values)))
    return None if original == tuple(range(len(original))) else LabelIds(original)


def check_label_ids(original: object) -> str:
    """Return what is wrong with a table of ids, or an empty string."""
    if not isinstance(original, (list, tuple)) or not all(type(value) is int for value in original):
        return f"{LABEL_IDS_KEY} must be a list of whole numbers"
    if list(original[:1]) != [0] or any(low >= high for low, high in pairwise(original)):
        return f"{LABEL_IDS_KEY} must start with 0 and ascend"
    if original[-1] > MAX_LABEL:
        return f"{LABEL_IDS_KEY} must not exceed {MAX_LABEL}, found {original[-1]}"
    if len(original) > MAX_NUM_LABELS:
        return f"{len(original)} labels are more than the {MAX_NUM_LABELS} that can be stored"
    return ""
