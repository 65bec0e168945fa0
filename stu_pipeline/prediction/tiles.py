"""The sliding window: where tiles lie, how they are weighted, mirrored and added up.

Arrays are `(c, z, y, x)`. A patch with two entries slides in the plane, slice by slice along z.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from stu_pipeline.datasets.laterality import SideSwap

Tile = tuple[int | slice, ...]
"""Index of one tile in the spatial axes `(z, y, x)`."""

_SIGMA = 1 / 8
_PEAK = 10.0
_PLANE = 2
_TILES_VOXELS = 1 << 20
_MAX_TILES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSettings:
    """How the window slides."""

    patch_voxels: tuple[int, ...]
    num_outputs: int
    step: float = 0.5
    """Distance of two tiles, at most, as a share of the patch."""
    mirror_axes: tuple[int, ...] = ()
    """Spatial axes of the patch along which mirrored copies are averaged, in all combinations."""
    side_swap: SideSwap | None = None
    """Channels that change places in a copy whose left and right are exchanged."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    results_device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    autocast: torch.dtype | None = None
    """Computing type of the network; None is float32."""
    max_tiles: int = _MAX_TILES
    """Tiles per batch, at most."""


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


def list_tiles(image_voxels: Sequence[int], patch_voxels: Sequence[int], step: float) -> list[Tile]:
    """List the tiles of an image `(z, y, x)` that is at least as large as the patch."""
    num_axes = len(patch_voxels)
    starts = find_tile_starts(image_voxels[-num_axes:], patch_voxels, step)
    windows = [
        tuple(slice(start, start + size) for start, size in zip(corner, patch_voxels, strict=True))
        for corner in itertools.product(*starts)
    ]
    if num_axes > _PLANE:
        return list(windows)
    return [(z, *window) for z in range(image_voxels[0]) for window in windows]


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


def list_mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """List all combinations of axes, the plain copy first.

    >>> list_mirrorings([0, 2])
    [(), (0,), (2,), (0, 2)]
    """
    return [combination for count in range(len(axes) + 1) for combination in itertools.combinations(axes, count)]


def pad_to_patch(data: torch.Tensor, patch_voxels: Sequence[int]) -> tuple[torch.Tensor, tuple[slice, ...]]:
    """Pad `(c, z, y, x)` with zeros to at least the patch, the image in the middle.

    Returns:
        The padded image, and the spatial slices that undo it.
    """
    wanted = (*data.shape[1 : data.ndim - len(patch_voxels)], *patch_voxels)
    missing = [max(0, target - size) for size, target in zip(data.shape[1:], wanted, strict=True)]
    low = [count // 2 for count in missing]
    inside = tuple(slice(start, start + size) for start, size in zip(low, data.shape[1:], strict=True))
    if not any(missing):
        return data, inside
    sides = [side for start, count in zip(low, missing, strict=True) for side in (count - start, start)]
    return functional.pad(data, sides[::-1]), inside


@torch.inference_mode()
def predict_tiles(
    network: nn.Module,
    data: torch.Tensor,
    settings: TileSettings,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> torch.Tensor:
    """Slide a network over an image and return float32 logits of the image's size on `results_device`.

    Logits are the importance-weighted mean over the tiles that cover a voxel. They are not checked here.

    Args:
        network: maps `(batch, c, *patch)` to `(batch, outputs, *patch)`; on `settings.device`.
        data: `(c, z, y, x)` float32.
        settings: how the window slides.
        on_progress: told the tiles done and their total after every batch.
    """
    padded, inside = pad_to_patch(data.to(settings.results_device), settings.patch_voxels)
    tiles = list_tiles(padded.shape[1:], settings.patch_voxels, settings.step)
    importance = build_importance(settings.patch_voxels).to(settings.results_device)
    logits = torch.zeros((settings.num_outputs, *padded.shape[1:]), device=settings.results_device)
    total_weight = torch.zeros(padded.shape[1:], device=settings.results_device)
    mirrorings = list_mirrorings(settings.mirror_axes)
    num_done = 0
    for batch in _batched(tiles, _choose_num_tiles(settings)):
        x = torch.stack([padded[(slice(None), *tile)] for tile in batch]).to(settings.device)
        with _autocast(settings):
            predicted = _predict_mirrored(network, x, mirrorings, settings.side_swap)
        predicted = predicted.to(settings.results_device)
        predicted *= importance
        for tile, part in zip(batch, predicted, strict=True):
            logits[(slice(None), *tile)] += part
            total_weight[tile] += importance
        num_done += len(batch)
        on_progress(num_done, len(tiles))
    logits /= total_weight
    return logits[(slice(None), *inside)]


def _predict_mirrored(
    network: nn.Module, x: torch.Tensor, mirrorings: Sequence[tuple[int, ...]], swap: SideSwap | None
) -> torch.Tensor:
    """Average the network over mirrored copies of a batch `(batch, c, *patch)`, in float32."""
    outputs = (_predict_flipped(network, x, mirroring, swap) for mirroring in mirrorings)
    total = next(outputs)
    for output in outputs:
        total += output
    return total / len(mirrorings)


def _predict_flipped(
    network: nn.Module, x: torch.Tensor, mirrored: tuple[int, ...], swap: SideSwap | None
) -> torch.Tensor:
    if not mirrored:
        plain: torch.Tensor = network(x).float()
        return plain
    axes = [axis + 2 for axis in mirrored]
    copy = torch.flip(x, axes)
    if swap is None or not swap.applies_to(mirrored):
        return torch.flip(network(copy).float(), axes)
    output = torch.flip(network(copy[:, list(swap.inputs)]).float(), axes)
    return output[:, list(swap.outputs)]


def _choose_num_tiles(settings: TileSettings) -> int:
    return max(1, min(settings.max_tiles, _TILES_VOXELS // math.prod(settings.patch_voxels)))


def _batched(tiles: Sequence[Tile], count: int) -> Iterator[Sequence[Tile]]:
    for start in range(0, len(tiles), count):
        yield tiles[start : start + count]


def _autocast(settings: TileSettings) -> AbstractContextManager[object]:
    if settings.autocast is None:
        return contextlib.nullcontext()
    return torch.autocast(settings.device.type, dtype=settings.autocast)
