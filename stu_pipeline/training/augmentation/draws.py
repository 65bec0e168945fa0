"""What the geometric augmentation of a sample is, and which voxels it needs. No torch: loader processes import this.

Two places of nnU-Net's patch inside the initial patch follow from its code, and they differ by half a voxel where
one size is odd and the other even: a transformed patch is centred at `(initial_patch - 1) / 2`, an untransformed one
is cut out from voxel `initial_patch // 2 - patch // 2`. All boxes and positions here count from the first voxel of
the untransformed patch (the *patch grid*), so a loader that has chosen where the patch lies in an image adds
numbers and nothing else.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stu_pipeline.training.augmentation.settings import AugmentationSettings
from stu_pipeline.training.sampling.sample import Purpose, SampleKey

P_ROTATION = 0.2
P_SCALING = 0.2
SCALING = (0.7, 1.4)
"""Above 1 the patch sees more of the image: objects become smaller."""
P_MIRROR = 0.5

# float32 positions of a 1000-voxel patch are off by less; a corner that only rounding reaches has no weight anyway.
_POSITION_ERROR = 1e-3

Affine = NDArray[np.float64]


def draw_affine(key: SampleKey, settings: AugmentationSettings) -> Affine | None:
    """Draw how a sample is rotated and scaled.

    The matrix `(d, d)` is in the order of the spatial axes and takes a voxel of the patch to the voxel of the image
    it shows, both relative to the patch's centre: `source = affine @ output`. Rotation (one angle per axis) and
    scaling (one factor for all axes) fire independently, each with probability 0.2. With dummy-2D the first axis
    stays as it is.

    Returns:
        The matrix, or None where the sample is neither rotated nor scaled.
    """
    generator = key.open_generator(Purpose.SPATIAL)
    is_rotated, is_scaled = generator.random(2) < (P_ROTATION, P_SCALING)
    angles = generator.uniform(*settings.rotation_rad, size=3)
    scale = generator.uniform(*SCALING)
    if not (is_rotated or is_scaled):
        return None
    is_flat = settings.is_dummy_2d or len(settings.patch) == 2
    factor = float(scale) if is_scaled else 1.0
    if not is_flat:
        return _rotate_volume(angles if is_rotated else np.zeros(3)) * factor
    in_plane = _rotate_plane(float(angles[0]) if is_rotated else 0.0) * factor
    if not settings.is_dummy_2d:
        return in_plane
    affine = np.eye(3)
    affine[1:, 1:] = in_plane
    return affine


def draw_mirror_axes(key: SampleKey, settings: AugmentationSettings) -> tuple[int, ...]:
    """Draw along which of the allowed axes a sample is mirrored, each with probability 0.5; empty for none."""
    axes = settings.mirroring.axes
    is_mirrored = key.open_generator(Purpose.MIRROR).random(len(axes)) < P_MIRROR
    return tuple(axis for axis, mirror in zip(axes, is_mirrored, strict=True) if mirror)


def find_plain_offset(settings: AugmentationSettings) -> tuple[int, ...]:
    """Find the voxel of the initial patch at which the untransformed patch begins, as nnU-Net rounds it."""
    return tuple(initial // 2 - size // 2 for initial, size in zip(settings.initial_patch, settings.patch, strict=True))


def find_patch_center(settings: AugmentationSettings) -> tuple[float, ...]:
    """Find where the centre of a transformed patch lies, in voxels of the patch grid.

    `Sample.center` is this minus the `lower` end of the box that was read.
    """
    return tuple(
        (initial - 1) / 2 - offset
        for initial, offset in zip(settings.initial_patch, find_plain_offset(settings), strict=True)
    )


def find_source_box(affine: Affine, settings: AugmentationSettings) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Find the voxels a transformed patch can show: what interpolation touches, inside the initial patch.

    A loader reads `[first_voxel_of_the_patch + lower, first_voxel_of_the_patch + upper)` of the image, filled with 0
    (data) and -1 (labels) where that leaves the image, and passes `find_patch_center(settings) - lower` as
    `Sample.center`. The box begins at an even voxel of the initial patch: a position exactly between two voxels takes
    the label of the even one, and cutting the box must not change which one is even.

    Returns:
        `lower` (inclusive) and `upper` (exclusive), in voxels of the patch grid, often negative.
    """
    reach = np.abs(affine) @ ((np.asarray(settings.patch) - 1) / 2) + _POSITION_ERROR
    lower, upper = [], []
    for initial, offset, radius in zip(settings.initial_patch, find_plain_offset(settings), reach, strict=True):
        center = (initial - 1) / 2
        first = max(0, math.floor(center - radius))
        last = min(initial - 1, math.floor(center + radius) + 1)
        lower.append(first - first % 2 - offset)
        upper.append(last + 1 - offset)
    return tuple(lower), tuple(upper)


def _rotate_volume(angles_rad: NDArray[np.float64]) -> Affine:
    """Rotate about the first axis, then the second, then the third (positive where nnU-Net's angles are)."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles_rad):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[np.ix_((first, second), (first, second))] = _rotate_plane(float(angle))
        matrix = turn @ matrix
    return matrix


def _rotate_plane(angle_rad: float) -> Affine:
    """Rotate the first axis towards the second."""
    sine, cosine = math.sin(angle_rad), math.cos(angle_rad)
    return np.array([[cosine, -sine], [sine, cosine]])
