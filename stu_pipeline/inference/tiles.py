"""Where tiles lie, in which order they are visited, how they are cut and weighted.

Arrays are `(c, z, y, x)` after the plan's transposition. A flat patch `(y, x)` is a tile of one plane.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stu_pipeline.preparation.target_grid import Shape

Corner = Shape
"""The first voxel of a tile in the padded image."""

_SIGMA = 1 / 8
_PEAK = 10.0
_FLAT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGrid:
    """All tiles of one image. Where the image is smaller than a tile, it lies in the middle of zeros."""

    image_shape: Shape
    extent: Shape
    """Voxels of a tile."""
    low: Shape
    """Zeros before the image, per axis."""
    starts: tuple[tuple[int, ...], ...]
    """The first voxels of the tiles along each axis, in the padded image."""
    axis: int
    """The walk axis."""

    @property
    def padded_shape(self) -> Shape:
        """Voxels of the image, at least those of a tile."""
        z, y, x = (max(size, tile) for size, tile in zip(self.image_shape, self.extent, strict=True))
        return z, y, x

    @property
    def ring_shape(self) -> Shape:
        """The planes that one tile covers: as thick as a tile along the walk axis, as wide as the image."""
        z, y, x = (self.extent[axis] if axis == self.axis else size for axis, size in enumerate(self.padded_shape))
        return z, y, x

    @property
    def num_tiles(self) -> int:
        """How many tiles there are."""
        return math.prod(len(starts) for starts in self.starts)

    def list_corners(self) -> list[Corner]:
        """List the tiles so that their first planes along the walk axis never go back."""
        corners = ((z, y, x) for z, y, x in itertools.product(*self.starts))
        return sorted(corners, key=lambda corner: corner[self.axis])


def build_tile_grid(image_shape: Sequence[int], patch_voxels: Sequence[int], step: float, axis: int) -> TileGrid:
    """Lay tiles over an image `(z, y, x)`.

    Args:
        image_shape: voxels; no axis is empty.
        patch_voxels: three entries, or two for a flat patch.
        step: distance of two tiles, at most, as a share of the patch.
        axis: the walk axis.
    """
    extent = find_extent(patch_voxels)
    shape = _as_shape(image_shape)
    padded = [max(size, tile) for size, tile in zip(shape, extent, strict=True)]
    flat = len(extent) - len(patch_voxels)
    starts = [list(range(size)) for size in padded[:flat]] + find_tile_starts(padded[flat:], extent[flat:], step)
    return TileGrid(
        image_shape=shape,
        extent=extent,
        low=_as_shape([max(0, tile - size) // 2 for size, tile in zip(shape, extent, strict=True)]),
        starts=tuple(tuple(values) for values in starts),
        axis=axis,
    )


def choose_walk_axis(image_shape: Sequence[int], *patches: Sequence[int]) -> int:
    """Choose the axis along which the window keeps the fewest voxels, for one or several patches on one grid.

    It is the first one where a flat patch slides, and the lower one on a tie.
    """
    if any(len(patch) == _FLAT for patch in patches):
        return 0
    voxels = [
        sum(math.prod(build_tile_grid(image_shape, patch, 1.0, axis).ring_shape) for patch in patches)
        for axis in range(3)
    ]
    return voxels.index(min(voxels))


def find_extent(patch_voxels: Sequence[int]) -> Shape:
    """Return the voxels of a tile `(z, y, x)`; a flat patch is one plane thick.

    >>> find_extent([64, 48])
    (1, 64, 48)
    """
    return _as_shape([1] * (3 - len(patch_voxels)) + list(patch_voxels))


def find_tile_starts(image_voxels: Sequence[int], patch_voxels: Sequence[int], step: float) -> list[list[int]]:
    """List the first voxel of every tile, per axis: evenly spread, at most `step` patches apart.

    The image must be at least as large as the patch on every axis.

    >>> find_tile_starts([110], [64], 0.5)
    [[0, 23, 46]]
    """
    starts = []
    for size, patch in zip(image_voxels, patch_voxels, strict=True):
        last = size - patch
        count = math.ceil(last / (patch * step)) + 1
        distance = last / max(count - 1, 1)
        starts.append([int(value) for value in np.rint(np.arange(count) * distance)])
    return starts


def build_importance(patch_voxels: Sequence[int]) -> torch.Tensor:
    """Build the weight of every voxel of a tile: a Gaussian with its peak of 10 in the centre, float32.

    Its values are rounded to float16 as nnU-Net's are, and what becomes zero there gets the smallest other value.
    """
    profile = np.ones(())
    for size in patch_voxels:
        distance = (np.arange(size) - size // 2) / (size * _SIGMA)
        profile = profile[..., None] * np.exp(-0.5 * distance**2)
    importance = torch.from_numpy(_PEAK * profile).to(torch.float16)
    importance[importance == 0] = importance[importance > 0].min()
    return importance.float()


def cut_tiles(image: torch.Tensor, grid: TileGrid, corners: Sequence[Corner], *, pinned: bool = False) -> torch.Tensor:
    """Cut tiles `(tiles, c, z, y, x)` out of an image `(c, z, y, x)`; voxels outside of it are 0.

    Args:
        image: float32, of `grid.image_shape`.
        grid: of the image.
        corners: which tiles, at least one.
        pinned: whether to cut into page-locked memory, from which a GPU copies faster.
    """
    shape = (len(corners), image.shape[0], *grid.extent)
    is_padded = grid.padded_shape != grid.image_shape
    tiles = (torch.zeros if is_padded else torch.empty)(shape, dtype=image.dtype, pin_memory=pinned)
    for tile, corner in zip(tiles, corners, strict=True):
        source, target = [slice(None)], [slice(None)]
        for start, low, size, voxels in zip(corner, grid.low, grid.extent, grid.image_shape, strict=True):
            first, last = max(0, start - low), min(voxels, start - low + size)
            source.append(slice(first, last))
            target.append(slice(first + low - start, last + low - start))
        tile[tuple(target)] = image[tuple(source)]
    return tiles


def _as_shape(values: Sequence[int]) -> Shape:
    z, y, x = (int(value) for value in values)
    return z, y, x
