"""The surface of every label of a label map, as small elements of known area.

The cells are the 2x2x2 blocks of voxels (2x2 in a flat map), those that reach over the edge included. A cell that
a mask fills in part holds one surface element: at its centre, with the area that marching cubes gives its corners
(Lorensen and Cline 1987). DeepMind's surface-distance measures on the same elements.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.uint16]
Members = NDArray[np.bool_]

_SLAB_VOXELS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Elements:
    """The surface elements of one mask; none where the mask is empty.

    Args:
        cells: flat index of each cell in the grid of cells, ascending; it has one cell more per axis than the map
            has voxels, and cell `(i, j, k)` lies between the voxels `(i - 1, j - 1, k - 1)` and `(i, j, k)`.
        codes: which corners of the cell are in the mask, one bit each, the first corner being the highest bit.
    """

    cells: NDArray[np.int64]
    codes: NDArray[np.uint8]


Part = tuple[NDArray[np.int64], NDArray[np.uint8]]


def find_elements(label_map: Positions, members: Sequence[Members]) -> tuple[Elements, ...]:
    """Find the surface elements of several masks in one pass over a label map.

    What it costs depends on the size of the map and of the surfaces, hardly on the number of labels. Beside the
    elements (9 bytes each) it needs some ten MiB.

    Args:
        label_map: positions `(z, y, x)` or `(y, x)`; 0 is background, and so is everything outside.
        members: per mask, which positions belong to it: boolean, one per position.

    Returns:
        The elements of each mask, in the order of `members`.
    """
    parts: list[list[Part]] = [[] for _ in members]
    by_value: dict[int, list[Part]] = {}
    is_single = [np.count_nonzero(member) == 1 for member in members]
    regions = [index for index, member in enumerate(members) if member.any() and not is_single[index]]
    for cells, corners in _iterate_mixed_cells(label_map):
        _split_by_value(cells, corners, by_value)
        for index in regions:
            codes = _encode_corners(members[index][corners])
            is_surface = (codes != 0) & (codes != _find_full_code(label_map.ndim))
            parts[index].append((cells[is_surface], codes[is_surface]))
    for index in np.flatnonzero(is_single).tolist():
        parts[index] = by_value.get(int(members[index].argmax()), [])
    return tuple(_join_parts(found) for found in parts)


@functools.lru_cache(maxsize=8)
def list_areas(spacing_mm: tuple[float, ...]) -> NDArray[np.float64]:
    """List the area of a surface element by its code.

    Args:
        spacing_mm: `(z, y, x)`, or `(y, x)` for lengths of contours in a flat map.

    Returns:
        256 areas in mm2, or 16 lengths in mm; 0 for the two codes without a surface.
    """
    if len(spacing_mm) == 2:
        return _list_lengths(spacing_mm)
    depth, height, width = spacing_mm
    normals = _list_normals() * np.array([height * width, depth * width, depth * height])
    return np.asarray(np.linalg.norm(normals, axis=-1).sum(axis=-1), dtype=np.float64)


@functools.cache
def _list_normals() -> NDArray[np.float64]:
    """List the normals of each code's triangles in a cell of unit size, as long as the triangle is large.

    Returns:
        `(256, triangles, 3)`, padded with zeros.
    """
    from skimage.measure import marching_cubes  # late: it takes 0.3 s

    normals = np.zeros((256, 5, 3))
    for code in range(1, 255):
        corners = np.array([code >> bit & 1 for bit in range(7, -1, -1)], dtype=np.float32).reshape(2, 2, 2)
        # Marching cubes is not symmetric where corners meet across a face: the rarer side is the mask.
        mask = 1 - corners if corners.sum() > 4 else corners
        points, triangles, _, _ = marching_cubes(mask, 0.5, method="lorensen")
        sides = points[triangles].astype(np.float64)
        normals[code, : len(sides)] = np.cross(sides[:, 1] - sides[:, 0], sides[:, 2] - sides[:, 0]) / 2
    return normals


def _list_lengths(spacing_mm: tuple[float, ...]) -> NDArray[np.float64]:
    """List the contour length of each of the 16 codes of a cell with four corners."""
    height, width = spacing_mm
    diagonal = float(np.hypot(height, width)) / 2
    lengths = np.full(16, diagonal)  # one corner is alone, in the mask or outside it
    lengths[[0b0000, 0b1111]] = 0.0
    lengths[[0b1100, 0b0011]] = width
    lengths[[0b1010, 0b0101]] = height
    lengths[[0b1001, 0b0110]] = 2 * diagonal
    return lengths


def _iterate_mixed_cells(label_map: Positions) -> Iterator[tuple[NDArray[np.int64], Positions]]:
    """Yield the cells whose corners differ, slab by slab, with the values of the corners `(corners, cells)`."""
    strides = np.cumprod([1, *(size + 1 for size in label_map.shape[:0:-1])])[::-1].tolist()
    offsets = [sum(itertools.compress(strides, step)) for step in itertools.product((0, 1), repeat=label_map.ndim)]
    plane, num_planes = strides[0], label_map.shape[0] + 1
    thickness = max(1, _SLAB_VOXELS // plane)
    for start in range(0, num_planes, thickness):
        stop = min(start + thickness, num_planes)
        voxels = _flatten_slab(label_map, start, stop, plane)
        if not voxels.any():
            continue
        low = high = voxels
        for stride in strides:
            low, high = np.minimum(low[:-stride], low[stride:]), np.maximum(high[:-stride], high[stride:])
        num_cells = (stop - start) * plane
        mixed = np.flatnonzero(low[:num_cells] != high[:num_cells])
        if mixed.size:
            yield mixed + start * plane, np.stack([voxels[mixed + offset] for offset in offsets])


def _flatten_slab(label_map: Positions, start: int, stop: int, plane: int) -> Positions:
    """Copy the voxels around the cell planes `start` to `stop`, with a margin of background, into one line.

    A margin on the lower side of each axis is enough: what follows the last voxel of a row is the margin of the
    next row. So each neighbour of a voxel is at a fixed distance in the line, and no cell is a special case.
    """
    rest = [size + 1 for size in label_map.shape[1:]]
    # One plane for the corners above the last cells, one for what even those look up.
    block = np.zeros((stop - start + 2, *rest), dtype=label_map.dtype)
    first, last = max(start - 1, 0), min(stop, label_map.shape[0])
    inner = tuple(slice(1, None) for _ in rest)
    block[(slice(first - start + 1, last - start + 1), *inner)] = label_map[first:last]
    return block.reshape(-1)


def _split_by_value(cells: NDArray[np.int64], corners: Positions, by_value: dict[int, list[Part]]) -> None:
    """Append the elements of every value but the background to its list, cells ascending."""
    num_corners = len(corners)
    codes = np.zeros(corners.shape, dtype=np.uint8)
    is_first = corners != 0
    for index in range(num_corners):
        codes[index] |= np.uint8(1 << (num_corners - 1 - index))
        for other in range(index + 1, num_corners):
            is_same = corners[index] == corners[other]
            codes[index] |= is_same.view(np.uint8) << np.uint8(num_corners - 1 - other)
            is_first[other] &= ~is_same
    cell, corner = np.divmod(np.flatnonzero(is_first.T), num_corners)
    values = corners[corner, cell]
    order = np.argsort(values, kind="stable")
    cell, corner, values = cell[order], corner[order], values[order]
    found_cells, found_codes = cells[cell], codes[corner, cell]
    starts = np.flatnonzero(np.diff(values, prepend=0)).tolist()
    for start, stop in itertools.pairwise([*starts, len(values)]):
        by_value.setdefault(int(values[start]), []).append((found_cells[start:stop], found_codes[start:stop]))


def _encode_corners(corners: NDArray[np.bool_]) -> NDArray[np.uint8]:
    codes = np.zeros(corners.shape[1], dtype=np.uint8)
    for corner in corners:
        codes = codes << np.uint8(1) | corner.view(np.uint8)
    return codes


def _find_full_code(num_dimensions: int) -> int:
    return (1 << (1 << num_dimensions)) - 1


def _join_parts(parts: Sequence[Part]) -> Elements:
    if not parts:
        return Elements(cells=np.zeros(0, dtype=np.int64), codes=np.zeros(0, dtype=np.uint8))
    cells, codes = zip(*parts, strict=True)
    return Elements(cells=np.concatenate(cells), codes=np.concatenate(codes))
