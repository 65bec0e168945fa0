"""View arrays along the patient's axes, whatever order and direction their file stores them in."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Array = TypeVar("Array", bound=npt.NDArray[Any])

# World axes in the order the views use: feet to head, front to back, right to left (SimpleITK's z, y, x).
AXIS_NAMES = ("head-feet", "front-back", "left-right")
_WORLD_AXES = (2, 1, 0)
_LETTERS = ("RL", "AP", "IS")


@dataclass(frozen=True, slots=True)
class Orientation:
    """How array axes map to the patient: `order[k]` is the array axis that runs along world axis `k` of the view.

    `signs[k]` is -1 where that axis runs against it. `code` names the direction of the file's x, y and z axes,
    `LPS` when they run to the left, to the back and up.
    """

    order: tuple[int, int, int]
    signs: tuple[int, int, int]
    code: str


def read_orientation(direction: tuple[float, ...]) -> Orientation:
    """Find the patient axis nearest to each array axis `(z, y, x)` from nine cosines, row by row."""
    cosines = np.array(direction).reshape(3, 3)  # rows: world x, y, z; columns: file x, y, z

    def agreement(file_axes: tuple[int, ...]) -> float:
        return float(sum(abs(cosines[world, file_axes[world]]) for world in range(3)))

    file_axis_of = max(permutations(range(3)), key=agreement)
    signs = [1 if cosines[world, file_axis_of[world]] >= 0 else -1 for world in range(3)]
    world_of = {file_axis_of[world]: world for world in range(3)}
    code = "".join(_LETTERS[world_of[axis]][int(signs[world_of[axis]] > 0)] for axis in range(3))
    order = tuple(2 - file_axis_of[world] for world in _WORLD_AXES)
    along = tuple(signs[world] for world in _WORLD_AXES)
    return Orientation(order=(order[0], order[1], order[2]), signs=(along[0], along[1], along[2]), code=code)


def view_along_patient(array: Array, orientation: Orientation) -> Array:
    """Return a view of `(z, y, x)` voxels whose axes run feet to head, front to back, right to left."""
    turned = array.transpose(orientation.order)
    view: Array = turned[tuple(slice(None, None, sign) for sign in orientation.signs)]  # type: ignore[assignment]
    return view
