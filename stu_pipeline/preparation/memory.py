"""How much memory the reading and the preparing of an image take, known from its header."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stu_pipeline.preparation.resampling import COLUMNS_AT_ONCE

FLOAT_BYTES = 4
_DOUBLE_BYTES = 8
# Held at the same time, per voxel of one channel: the mask of what is not zero, and what normalising copies. A z-score
# makes one array of differences, one within a mask gathers the voxels, subtracts and divides.
_NONZERO_BYTES, _NORMALISE_BYTES, _NORMALISE_INSIDE_BYTES = 1, 4, 12
# nnU-Net's own preprocessor resamples in double precision, and copies before it crops and after.
_ENGINE_BYTES = 28


def forecast_reading_bytes(num_voxels: int, num_channels: int, *, stored_bytes: int, packed_bytes: int) -> int:
    """Forecast the peak while the channels of a case are read one after the other.

    That is the bytes of a file with the voxels as they are stored, or those voxels with their form as float32; for
    several channels also the image of `4 * channels` bytes per voxel, and the channel before.

    Args:
        num_voxels: of one channel.
        num_channels: of the image.
        stored_bytes: of a voxel in the file beside its form as float32; 0 when it is read as it is used.
        packed_bytes: of the largest file, where it is compressed.
    """
    converted = num_voxels * (FLOAT_BYTES + stored_bytes)
    unpacked = num_voxels * (stored_bytes or FLOAT_BYTES) + packed_bytes
    whole = FLOAT_BYTES * (num_channels + 1) * num_voxels if num_channels > 1 else 0
    return whole + max(converted, unpacked)


def forecast_preparing_bytes(
    shape: Sequence[int],
    target: Sequence[int],
    num_channels: int,
    *,
    is_z_score: bool = False,
    within_mask: bool = False,
    is_copied: bool = False,
    uses_engine: bool = False,
) -> int:
    """Forecast the peak of `prepare_image` with the image it is given, without cropping.

    With n voxels before and m after: `4 * channels * n` of the image, the same again where it must be kept, n of the
    mask, then the larger of what normalising (z-score: 4 n, or 12 n within a mask) and resampling take: `4 * channels
    * m` of the result, twice the volume between the axes, and some columns in double precision.

    Args:
        shape: voxels `(z, y, x)` in the plan's axes, as read.
        target: voxels on the planned grid.
        num_channels: of the image.
        is_z_score: whether a channel is normalised by its own mean and deviation.
        within_mask: whether inside the object only.
        is_copied: whether the voxels as read are kept.
        uses_engine: whether nnU-Net's own code prepares the case.
    """
    before, after = math.prod(shape), math.prod(target)
    image = FLOAT_BYTES * num_channels * before
    if uses_engine:
        return 2 * image + FLOAT_BYTES * num_channels * after + _ENGINE_BYTES * max(before, after)
    normalising = 0
    if is_z_score:
        normalising = before * (_NORMALISE_INSIDE_BYTES if within_mask else _NORMALISE_BYTES)
    resampling = 0
    if tuple(shape) != tuple(target):
        resampling = FLOAT_BYTES * num_channels * after + _count_between(shape, target)
    return image * (2 if is_copied else 1) + before * _NONZERO_BYTES + max(normalising, resampling)


def _count_between(shape: Sequence[int], target: Sequence[int]) -> int:
    """Count the bytes of a channel between its axes: the planes first where they grow, the depth first elsewhere."""
    old_plane, new_plane = shape[1] * shape[2], target[1] * target[2]
    if shape[0] == target[0]:
        return 2 * _DOUBLE_BYTES * max(old_plane, new_plane)
    grows = shape[0] < target[0]
    thin = shape[0] * new_plane if grows else target[0] * old_plane
    # Resampled along the depth beside the place it is copied to, a few columns in double precision at a time.
    columns = min(COLUMNS_AT_ONCE, new_plane if grows else old_plane)
    resampled = target[0] * (new_plane if grows else old_plane)
    return FLOAT_BYTES * (thin + resampled) + _DOUBLE_BYTES * columns * (shape[0] + 2 * target[0])
