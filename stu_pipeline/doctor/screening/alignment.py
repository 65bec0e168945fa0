"""Measure how well a label map follows its image: as it is, mirrored along each axis, and shifted.

The idea needs no model: labels end where the image changes, and what has one label looks alike. A map that was
mirrored or moved on its way loses both, and it regains them when it is mirrored back.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = tuple[npt.NDArray[np.intp], ...]

# Every combination of mirrored axes, the identity first.
FLIPS: tuple[tuple[int, int, int], ...] = tuple(itertools.product((0, 1), repeat=3))  # type: ignore[arg-type]
MAX_SHIFT = 6
# Sampled voxels and voxel pairs. More would change the measured means by less than a thousandth.
_MAX_POINTS = 2**18
_MAX_PAIRS = 2**15
OCCUPANCY_SIZE = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Alignment:
    """What was measured, along the patient's axes (feet-head, front-back, right-left). `L` labels."""

    labels: tuple[int, ...]
    edge_contrast: Floats
    """(8,): mean step of the image where the label changes, for the map mirrored by each of `FLIPS`."""
    spread: Floats
    """(8,): variance of the image within labels, likewise."""
    centres: Floats
    """(L, 3): centre of each label from the centre of the foreground, in units of the foreground's extent."""
    occupancy: Floats
    """(8, 8, 8): share of foreground in each cell of its bounding box."""
    shift_contrast: Floats
    """(3, 13): `edge_contrast` of the map moved by -6 to 6 voxels along each axis."""


def measure_alignment(image: Floats, labels: npt.NDArray[Any]) -> Alignment | None:
    """Measure image `(c, z, y, x)` against a label map `(z, y, x)`, both along the patient's axes.

    Args:
        image: scaled to 0 to 1 between the 1 and 99 % percentiles of each channel.
        labels: 0 is background.

    Returns None when there is no foreground.
    """
    values = [int(value) for value in np.flatnonzero(np.bincount(labels.ravel())) if value]
    if not values:
        return None
    table = np.zeros(values[-1] + 1, dtype=np.intp)
    table[values] = np.arange(len(values))
    inside = np.nonzero(labels)
    which = table[labels[inside]]
    step = -(-len(which) // _MAX_POINTS)
    sample: Indices = tuple(index[::step] for index in inside)
    pairs = _find_boundary(labels)
    spreads = [_measure_spread(_mirror(image, flip), sample, which[::step], len(values)) for flip in FLIPS]
    return Alignment(
        labels=tuple(values),
        edge_contrast=np.array([_measure_steps(_mirror(image, flip), pairs) for flip in FLIPS], dtype=np.float32),
        spread=np.array(spreads, dtype=np.float32),
        centres=_measure_centres(inside, which, len(values)),
        occupancy=_measure_occupancy(inside),
        shift_contrast=_measure_shifts(image, pairs),
    )


def _mirror(image: Floats, flip: tuple[int, int, int]) -> Floats:
    # Mirroring the image is the same as mirroring the labels, and needs no copy.
    return image[(slice(None), *(slice(None, None, -1 if mirrored else 1) for mirrored in flip))]


def _find_boundary(labels: npt.NDArray[Any]) -> list[Indices]:
    """Return, per axis, where a voxel and the next one along that axis have different labels."""
    pairs = []
    for axis in range(3):
        size = labels.shape[axis]
        lower, upper = np.take(labels, range(size - 1), axis), np.take(labels, range(1, size), axis)
        found = np.nonzero(lower != upper)
        step = max(1, -(-len(found[0]) // _MAX_PAIRS))
        pairs.append(tuple(index[::step] for index in found))
    return pairs


def _measure_steps(image: Floats, pairs: list[Indices]) -> float:
    total, count = 0.0, 0
    for axis, found in enumerate(pairs):
        beyond = tuple(index + 1 if number == axis else index for number, index in enumerate(found))
        for channel in image:
            total += float(np.abs(channel[found] - channel[beyond]).sum(dtype=np.float64))
        count += len(found[0]) * len(image)
    return total / max(1, count)


def _measure_spread(image: Floats, points: Indices, which: npt.NDArray[np.intp], num_labels: int) -> float:
    """Return the variance within labels, over all channels."""
    counts = np.maximum(np.bincount(which, minlength=num_labels), 1)
    within = 0.0
    for channel in image:
        values = channel[points].astype(np.float64)
        sums = np.bincount(which, values, minlength=num_labels)
        squares = np.bincount(which, values * values, minlength=num_labels)
        within += float((squares - sums * sums / counts).sum())
    return within / (len(which) * len(image))


def _measure_centres(inside: Indices, which: npt.NDArray[np.intp], num_labels: int) -> Floats:
    counts = np.bincount(which, minlength=num_labels)
    centres = np.empty((num_labels, 3), dtype=np.float32)
    for axis, index in enumerate(inside):
        extent = int(index.max()) - int(index.min()) + 1
        sums = np.bincount(which, index, minlength=num_labels)
        centres[:, axis] = (sums / counts - index.mean()) / extent
    return centres


def _measure_occupancy(inside: Indices) -> Floats:
    lows = [int(index.min()) for index in inside]
    extents = [int(index.max()) - low + 1 for index, low in zip(inside, lows, strict=True)]
    cells = [(index - low) * OCCUPANCY_SIZE // size for index, low, size in zip(inside, lows, extents, strict=True)]
    shape = (OCCUPANCY_SIZE,) * 3
    counts = np.bincount(np.ravel_multi_index(cells, shape), minlength=OCCUPANCY_SIZE**3)
    share = counts.reshape(shape) * OCCUPANCY_SIZE**3 / np.prod(extents, dtype=np.float64)
    return share.astype(np.float32)


def _measure_shifts(image: Floats, pairs: list[Indices]) -> Floats:
    contrasts = np.zeros((3, 2 * MAX_SHIFT + 1), dtype=np.float32)
    for axis in range(3):
        for place, shift in enumerate(range(-MAX_SHIFT, MAX_SHIFT + 1)):
            contrasts[axis, place] = _measure_steps(image, _move(pairs, axis, shift, image.shape[1:]))
    return contrasts


def _move(pairs: list[Indices], axis: int, shift: int, shape: tuple[int, ...]) -> list[Indices]:
    """Move pairs along an axis; those that leave the volume are dropped."""
    moved = []
    for across, found in enumerate(pairs):
        index = found[axis] + shift
        stays = (index >= 0) & (index < shape[axis] - (across == axis))
        moved.append(tuple((index if number == axis else other)[stays] for number, other in enumerate(found)))
    return moved
