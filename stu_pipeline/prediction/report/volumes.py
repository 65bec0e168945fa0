"""Count the voxels of each label of a mask, in all of it and on the faces of the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.dataset_fields import Label, values_of

Mask = npt.NDArray[np.integer[Any]]
Counts = npt.NDArray[np.int64]

_BACKGROUND = 0
_IGNORE = "ignore"


@dataclass(frozen=True, slots=True, eq=False)
class MaskCounts:
    """Voxels by value: `whole[value]`, and the same for every face."""

    whole: Counts
    faces: dict[tuple[int, int], Counts]
    """By axis, 0 to 2 for `(z, y, x)`, and end, 0 for the first plane and 1 for the last. An axis with a single voxel
    has no faces: there everything would touch."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing but background."""
        return not self.whole[1:].any()


def count_voxels(mask: Mask, num_values: int) -> MaskCounts:
    """Count the voxels of a mask, a plane at a time: the memory for it is a plane's.

    Args:
        mask: values from 0 to `num_values - 1`, `(z, y, x)`.
        num_values: how many values there may be.
    """
    whole = np.zeros(num_values, dtype=np.int64)
    for plane in mask:
        whole += np.bincount(plane.ravel(), minlength=num_values)
    faces = {
        (axis, end): np.bincount(mask.take(-end, axis=axis).ravel(), minlength=num_values)
        for axis in range(mask.ndim)
        for end in (0, 1)
        if mask.shape[axis] > 1
    }
    return MaskCounts(whole, faces)


def list_foreground(labels: Mapping[str, Label]) -> dict[str, tuple[int, ...]]:
    """Return the values of every label and region but background and the ignore label, in the order given.

    >>> list_foreground({"background": 0, "whole": (1, 2), "core": 2, "ignore": 3})
    {'whole': (1, 2), 'core': (2,)}
    """
    found = {}
    for name, label in labels.items():
        values = tuple(value for value in values_of(label) if value != _BACKGROUND)
        if values and name != _IGNORE:
            found[name] = values
    return found


def measure_volumes(counts: MaskCounts, labels: Mapping[str, Label], voxel_ml: float | None) -> dict[str, float]:
    """Return the volume of every label and region in millilitres, 0.0 for one that is not there.

    Args:
        counts: of a mask with the values that `labels` names.
        labels: names and values, background included or not.
        voxel_ml: millilitres of one voxel; None for a flat image, which has no volumes.
    """
    if voxel_ml is None:
        return {}
    return {
        name: round(_add_up(counts.whole, values) * voxel_ml, 6) for name, values in list_foreground(labels).items()
    }


def find_touched_faces(counts: MaskCounts, labels: Mapping[str, Label]) -> dict[str, tuple[tuple[int, int], ...]]:
    """Return the faces that each label touches, as `(axis, end)`; labels that touch none are left out."""
    found = {}
    for name, values in list_foreground(labels).items():
        touched = tuple(face for face, counted in counts.faces.items() if _add_up(counted, values))
        if touched:
            found[name] = touched
    return found


def _add_up(counted: Counts, values: tuple[int, ...]) -> int:
    return int(sum(counted[value] for value in values if value < len(counted)))
