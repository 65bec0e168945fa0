"""Resample images with splines: nnU-Net's result (cubic, edge continued, clipped) as matrix products.

Interpolation on a grid is separable: one small matrix per axis replaces 64 taps per voxel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stu_pipeline.preparation.interpolation import FloatArray, find_nearest, make_operator

Channel = npt.NDArray[np.float32]

# Rows of a product done at once: a cubic operator is a band, and what lies outside it is skipped.
_BLOCK_ROWS = 64
COLUMNS_AT_ONCE = 1 << 14


def resample_image(
    image: Channel,
    shape: Sequence[int],
    *,
    order: int = 3,
    separate_axis: int | None = None,
    separate_order: int = 0,
) -> Channel:
    """Resample every channel of an image `(c, z, y, x)` float32 to `shape`; the input when nothing changes.

    Args:
        image: finite values.
        shape: voxels `(z, y, x)` of the result.
        order: of the spline, 0, 1 or 3. The result is clipped to the range of the channel (of the slice, with
            a separate axis), as scikit-image does.
        separate_axis: axis whose slices are resampled one by one, then combined with `separate_order`.
        separate_order: 0, 1 or 3.
    """
    if tuple(image.shape[1:]) == tuple(shape):
        return image
    result = np.empty((len(image), *shape), dtype=np.float32)
    for channel, out in zip(image, result, strict=True):
        if separate_axis is None:
            _resample_channel(channel, out, order)
        else:
            # Views with the separate axis first; both share memory with their arrays.
            slices, out_slices = np.moveaxis(channel, separate_axis, 0), np.moveaxis(out, separate_axis, 0)
            _resample_slices(slices, out_slices, order, separate_order)
    return result


def _resample_channel(channel: Channel, out: Channel, order: int) -> None:
    """Resample `(z, y, x)` into `out`: slices first where z grows, last where it shrinks."""
    depth, new_depth = len(channel), len(out)
    if depth == new_depth:
        _resample_planes(channel, out, order)
    elif depth < new_depth:
        planes = np.empty((depth, *out.shape[1:]), dtype=np.float32)
        _resample_planes(channel, planes, order)
        _resample_depth(planes, out, order)
    else:
        thin = np.empty((new_depth, *channel.shape[1:]), dtype=np.float32)
        _resample_depth(channel, thin, order)
        _resample_planes(thin, out, order)
    np.clip(out, channel.min(), channel.max(), out=out)


def _resample_slices(slices: Channel, out: Channel, order: int, separate_order: int) -> None:
    if separate_order != 0 and len(slices) != len(out):
        planes = np.empty((len(slices), *out.shape[1:]), dtype=np.float32)
        _resample_planes(slices, planes, order, clip=True)
        _resample_depth(planes, out, separate_order)
        return
    nearest = find_nearest(len(slices), len(out))
    for index in np.unique(nearest):
        plane = np.empty((1, *out.shape[1:]), dtype=np.float32)
        _resample_planes(slices[index : index + 1], plane, order, clip=True)
        out[nearest == index] = plane


def _resample_planes(planes: Channel, out: Channel, order: int, *, clip: bool = False) -> None:
    """Resample `(n, y, x)` within its planes."""
    rows, columns = (
        None if size == new else make_operator(size, new, order)
        for size, new in zip(planes.shape[1:], out.shape[1:], strict=True)
    )
    if rows is None and columns is None:
        out[...] = planes
        return
    for plane, out_plane in zip(planes, out, strict=True):
        # Double precision between the axes, single precision only where it is stored.
        values = plane.astype(np.float64)
        if rows is not None:
            values = _multiply(rows, values)
        if columns is not None:
            values = _multiply(columns, values.T).T
        out_plane[...] = np.clip(values, plane.min(), plane.max()) if clip else values


def _resample_depth(volume: Channel, out: Channel, order: int) -> None:
    """Resample `(z, y, x)` along z, a range of columns at a time."""
    operator = make_operator(len(volume), len(out), order)
    flat, flat_out = volume.reshape(len(volume), -1), np.empty((len(out), out[0].size), dtype=np.float32)
    for start in range(0, flat.shape[1], COLUMNS_AT_ONCE):
        part = slice(start, start + COLUMNS_AT_ONCE)
        flat_out[:, part] = _multiply(operator, flat[:, part].astype(np.float64))
    out[...] = flat_out.reshape(out.shape)


def _multiply(operator: FloatArray, values: FloatArray) -> FloatArray:
    """Multiply a banded operator with the rows of `values`, block by block along the band."""
    result = np.empty((len(operator), values.shape[1]))
    for start in range(0, len(operator), _BLOCK_ROWS):
        block = operator[start : start + _BLOCK_ROWS]
        used = np.flatnonzero(block.any(axis=0))
        band = slice(used[0], used[-1] + 1)
        np.matmul(block[:, band], values[band], out=result[start : start + len(block)])
    return result
