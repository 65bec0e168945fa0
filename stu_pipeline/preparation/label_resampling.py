"""Resample label maps: linear interpolation of every label and the largest one wins, at the cost of one label.

nnU-Net interpolates the indicator of each label over the whole volume. A voxel sees only the 8 old voxels
around it (4 within a slice): where they agree, their label is the answer; elsewhere only the labels among them
can win.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stu_pipeline.preparation.interpolation import LinearCorners, find_corners, find_nearest

Labels = npt.NDArray[np.int16]
Mask = npt.NDArray[np.bool_]

LABEL_ORDERS = (0, 1)
_VOXELS_AT_ONCE = 1 << 13


def resample_labels(
    labels: Labels, shape: Sequence[int], *, order: int = 1, separate_axis: int | None = None
) -> Labels:
    """Resample a label map `(z, y, x)` int16 to `shape`; the input when nothing changes.

    Among labels with equal weight the one of the nearest old voxel wins, else the smallest one.

    Args:
        labels: any values, -1 (outside) included.
        shape: voxels `(z, y, x)` of the result.
        order: 1 for linear weights, 0 for the nearest voxel.
        separate_axis: axis along which the nearest slice is taken.
    """
    if labels.shape == tuple(shape):
        return labels
    result = np.empty(tuple(shape), dtype=labels.dtype)
    axis = 0 if separate_axis is None else separate_axis
    source, out = np.moveaxis(labels, axis, 0), np.moveaxis(result, axis, 0)
    nearest = find_nearest(len(source), len(out))
    if order == 0:
        rows, columns = (find_nearest(*sizes) for sizes in zip(source.shape[1:], out.shape[1:], strict=True))
        for index, plane in enumerate(out):
            plane[...] = source[nearest[index]][np.ix_(rows, columns)]
    elif separate_axis is None:
        _resample_linear(source, out, find_corners(len(source), len(out)))
    else:
        _resample_linear(source, out, _stay_in_slice(nearest))
    return result


def _stay_in_slice(nearest: npt.NDArray[np.intp]) -> LinearCorners:
    ones = np.ones(len(nearest))
    return LinearCorners(lower=nearest, upper=nearest, lower_weight=ones, upper_weight=np.zeros(len(nearest)))


@dataclass(frozen=True, slots=True, eq=False)
class _Plane:
    """One old slice seen from the new in-plane grid."""

    source: Labels
    label: Labels
    """Label of the first corner of every new voxel."""
    agrees: Mask
    """Whether the four corners hold one label."""


class _PlaneReader:
    """Looks at old slices from the new in-plane grid, each slice once."""

    def __init__(self, source: Labels, plane_shape: Sequence[int]) -> None:
        self._source = source
        self.rows, self.columns = (find_corners(*sizes) for sizes in zip(source.shape[1:], plane_shape, strict=True))
        self.nearest_row, self.nearest_column = (
            find_nearest(*sizes) for sizes in zip(source.shape[1:], plane_shape, strict=True)
        )
        self._kept: dict[int, _Plane] = {}

    def read(self, index: int) -> _Plane:
        """Return slice `index`; only the last two are kept."""
        if index not in self._kept:
            plane = self._look(np.ascontiguousarray(self._source[index]))
            self._kept = {**dict(list(self._kept.items())[-1:]), index: plane}
        return self._kept[index]

    def _look(self, source: Labels) -> _Plane:
        left = source.take(self.columns.lower, axis=1)
        agrees = left == source.take(self.columns.upper, axis=1)
        label = left.take(self.rows.lower, axis=0)
        all_agree = label == left.take(self.rows.upper, axis=0)
        all_agree &= agrees.take(self.rows.lower, axis=0)
        all_agree &= agrees.take(self.rows.upper, axis=0)
        return _Plane(source=source, label=label, agrees=all_agree)


def _resample_linear(source: Labels, out: Labels, depth: LinearCorners) -> None:
    reader = _PlaneReader(source, out.shape[1:])
    done: tuple[int, int, float] | None = None
    for index, plane in enumerate(out):
        key = (int(depth.lower[index]), int(depth.upper[index]), float(depth.lower_weight[index]))
        if key == done:  # the same slices with the same weights, as with a separate axis
            plane[...] = out[index - 1]
            continue
        done = key
        lower, upper = reader.read(key[0]), reader.read(key[1])
        plane[...] = lower.label
        differs = ~lower.agrees
        if lower is not upper:
            differs |= ~upper.agrees
            differs |= lower.label != upper.label
        rows, columns = np.nonzero(differs)
        weights = (float(depth.lower_weight[index]), float(depth.upper_weight[index]))
        for start in range(0, len(rows), _VOXELS_AT_ONCE):
            part = slice(start, start + _VOXELS_AT_ONCE)
            plane[rows[part], columns[part]] = _interpolate(reader, (lower, upper), weights, rows[part], columns[part])


def _interpolate(
    reader: _PlaneReader,
    planes: tuple[_Plane, _Plane],
    depth_weights: tuple[float, float],
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
) -> Labels:
    """Return the winning label of the new voxels at `rows`, `columns` between two old slices."""
    flat = planes[0] is planes[1]
    row_choices = ((reader.rows.lower, reader.rows.lower_weight), (reader.rows.upper, reader.rows.upper_weight))
    column_choices = (
        (reader.columns.lower, reader.columns.lower_weight),
        (reader.columns.upper, reader.columns.upper_weight),
    )
    corners, weights = [], []
    # Corners, products and sums in scipy's order, so that equal weights are equal to the last bit here and there.
    for plane, depth_weight in zip(planes[: 1 if flat else 2], depth_weights, strict=False):
        for row, row_weight in row_choices:
            for column, column_weight in column_choices:
                corners.append(plane.source[row[rows], column[columns]])
                weights.append(depth_weight * row_weight[rows] * column_weight[columns])
    nearer = planes[0] if depth_weights[0] > depth_weights[1] else planes[1]
    nearest = nearer.source[reader.nearest_row[rows], reader.nearest_column[columns]]
    return _choose_labels(np.stack(corners), np.stack(weights), nearest)


def _choose_labels(corners: Labels, weights: npt.NDArray[np.float64], nearest: Labels) -> Labels:
    """Return the label with the largest summed weight. Corners and weights `(corner, voxel)`, nearest `(voxel,)`."""
    scores = np.zeros_like(weights)
    for corner, weight in zip(corners, weights, strict=True):
        scores += weight * (corners == corner)
    np.minimum(scores, 1.0, out=scores)  # scikit-image clips to the range of the indicator
    is_top = scores == scores.max(axis=0)
    smallest = np.where(is_top, corners, np.iinfo(corners.dtype).max).min(axis=0)
    nearest_is_top = (is_top & (corners == nearest)).any(axis=0)
    chosen: Labels = np.where(nearest_is_top, nearest, smallest).astype(corners.dtype, copy=False)
    return chosen
