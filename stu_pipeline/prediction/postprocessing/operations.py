"""What can be done to a label map: keep some components of a label, fill its holes. In place, one box at a time.

Components are connected through faces, edges and corners (26 neighbours, as in nnU-Net). What encloses a hole is then
closed where 6 neighbours are: the outside is connected through faces only. A component is met before another when
its first voxel is, in `(z, y, x)` order; among equally large ones the one met first counts as the larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

LabelMap = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Box = tuple[slice, ...]

COMPONENT_NEIGHBOURS = 26
OUTSIDE_NEIGHBOURS = 6
_MIN_HOLLOW = 3


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """The components of labels inside a box, numbered from 1 in the order they are met."""

    box: Box
    ids: npt.NDArray[np.unsignedinteger[Any]]
    """Of every voxel of the box `(z, y, x)`, 0 outside of the labels."""
    sizes: Counts
    """Voxels of each component; entry 0 is component 1."""


def find_boxes(label_map: LabelMap) -> dict[int, Box]:
    """Return the bounding box of every label value but 0, in one pass over the map.

    >>> find_boxes(np.array([[[0, 2, 2]]]))
    {2: (slice(0, 1, None), slice(0, 1, None), slice(1, 3, None))}
    """
    return {value: box for value, box in enumerate(find_objects(label_map), start=1) if box is not None}


def count_values(array: LabelMap) -> Counts:
    """Count the voxels of each value from 0 to the largest, a plane at a time: the memory for it is a plane's."""
    counts = np.zeros(int(array.max(initial=0)) + 1, dtype=np.int64)
    for plane in array:
        counts += np.bincount(plane.ravel(), minlength=len(counts))
    return counts


def add_counts(counts: Counts, values: Sequence[int]) -> int:
    """Add up the counts of several values; a value beyond the last one has none."""
    return int(sum(counts[value] for value in values if value < len(counts)))


def join_boxes(boxes: Mapping[int, Box], values: Sequence[int]) -> Box | None:
    """Return the box around several label values; None when the map has none of them."""
    found = [boxes[value] for value in values if value in boxes]
    if not found:
        return None
    return tuple(
        slice(min(item.start for item in axis), max(item.stop for item in axis)) for axis in zip(*found, strict=True)
    )


def find_components(label_map: LabelMap, values: Sequence[int], box: Box) -> Components:
    """Number the components of a label, or of several taken together.

    The memory for it is at most 5 bytes per voxel of the box.

    Args:
        label_map: `(z, y, x)`.
        values: the label values.
        box: holds every voxel of them.
    """
    return _number(find_members(label_map[box], values), box)


def find_all_components(label_map: LabelMap, box: Box) -> tuple[Components, Counts]:
    """Number the components of every label in a box, each label by itself, in one pass however many there are.

    Returns:
        The components, and the label value of each.
    """
    inside = np.ascontiguousarray(label_map[box])
    found = _number(inside, box)
    values = np.zeros(len(found.sizes) + 1, dtype=np.int64)
    for plane, ids in zip(inside, found.ids, strict=True):
        values[ids] = plane
    return found, values[1:]


def choose_kept(
    sizes: Counts, *, keep_largest: int | None = None, min_size_mm3: float | None = None, voxel_mm3: float = 1.0
) -> Mask:
    """Decide which components stay.

    Args:
        sizes: voxels of each component, in the order they are met.
        keep_largest: how many of the largest stay; None for all.
        min_size_mm3: smaller ones go; None for none.
        voxel_mm3: volume of a voxel.

    Returns:
        Whether each stays.

    >>> choose_kept(np.array([5, 9, 5]), keep_largest=2).tolist()
    [True, True, False]
    """
    kept = np.ones(len(sizes), dtype=bool)
    if min_size_mm3 is not None:
        # A component of exactly this size stays, whatever the rounding of a product of three spacings.
        kept &= sizes * voxel_mm3 >= min_size_mm3 * (1 - 1e-6)
    if keep_largest is not None:
        order = np.argsort(-sizes, kind="stable")
        kept[order[keep_largest:]] = False
    return kept


def remove_components(label_map: LabelMap, components: Components, kept: Mask, becomes: int) -> None:
    """Give the voxels of all components that do not stay another value, in place.

    Args:
        label_map: `(z, y, x)`.
        components: of it.
        kept: per component.
        becomes: the value they get.
    """
    if not kept.all():
        goes = np.concatenate([[False], ~kept])
        for plane, ids in zip(label_map[components.box], components.ids, strict=True):
            plane[goes[ids]] = becomes


def find_holes(label_map: LabelMap, components: Components, chosen: Mask) -> Iterator[tuple[int, Box, Mask]]:
    """Find the background that components enclose: that no path through faces and past one leads out of.

    Another label inside a hole does not belong to it. What touches the border of the image is open there, unless the
    image is a single voxel thick: a flat image has holes within its plane. As what encloses a hole is connected, one
    component at a time is looked at, and those that can hold nothing are not.

    Args:
        label_map: `(z, y, x)`; it may be changed between two holes.
        components: of it.
        chosen: whether the holes of each component are wanted.

    Yields:
        The component's place in `sizes`, its box in the map, and the background it encloses there.
    """
    is_thick = [size > 1 for size in label_map.shape]
    # What encloses a voxel has one beside each of its faces.
    may_hold = chosen & (components.sizes >= 2 * sum(is_thick))
    if not may_hold.any():
        return
    for index, inner in enumerate(find_objects(components.ids)):
        widths = [axis.stop - axis.start for axis, thick in zip(inner, is_thick, strict=True) if thick]
        if not may_hold[index] or min(widths, default=0) < _MIN_HOLLOW:
            continue
        holes = _find_enclosed(components.ids[inner] != index + 1, is_thick)
        box = tuple(slice(o.start + i.start, o.start + i.stop) for o, i in zip(components.box, inner, strict=True))
        holes &= label_map[box] == 0
        if holes.any():
            yield index, box, holes


def fill_holes(label_map: LabelMap, components: Components, fill_values: Counts) -> Counts:
    """Fill what components enclose, in place.

    Args:
        label_map: `(z, y, x)`.
        components: of it.
        fill_values: what the holes of each component become; 0 leaves them alone.

    Returns:
        How many voxels were filled, per component.
    """
    filled = np.zeros(len(components.sizes), dtype=np.int64)
    for index, box, holes in find_holes(label_map, components, fill_values != 0):
        label_map[box][holes] = fill_values[index]
        filled[index] = np.count_nonzero(holes)
    return filled


def find_members(array: LabelMap, values: Sequence[int]) -> Mask:
    """Return where an array has one of several values, in the memory of one mask."""
    members: Mask = array == values[0]
    for value in values[1:]:
        members |= array == value
    return np.ascontiguousarray(members)


def _number(array: npt.NDArray[Any], box: Box) -> Components:
    # cc3d 4.1 fails on a line of voxels with 26 neighbours; a line has no edges or corners to connect through.
    is_line = sorted(array.shape)[-2] == 1
    neighbours = OUTSIDE_NEIGHBOURS if is_line else COMPONENT_NEIGHBOURS
    ids, number = cc3d.connected_components(array, connectivity=neighbours, return_N=True)
    sizes = np.zeros(number + 1, dtype=np.int64)
    for plane in ids:  # bincount makes 8 bytes of every voxel it is given
        np.add(sizes, np.bincount(plane.ravel(), minlength=number + 1), out=sizes)
    return Components(box, ids, sizes[1:])


def _find_enclosed(outside: Mask, is_thick: Sequence[bool]) -> Mask:
    """Return the parts of `outside` that reach no face of their box; an image has none along an axis of one voxel."""
    ids, number = cc3d.connected_components(outside, connectivity=OUTSIDE_NEIGHBOURS, return_N=True)
    is_closed = np.ones(number + 1, dtype=bool)
    is_closed[0] = False
    for axis, has_faces in enumerate(is_thick):
        if has_faces:
            for end in (0, -1):
                is_closed[np.unique(ids.take(end, axis=axis))] = False
    enclosed: Mask = np.zeros(outside.shape, dtype=bool)
    if is_closed.any():
        for plane, own in zip(enclosed, ids, strict=True):
            plane[...] = is_closed[own]
    return enclosed
