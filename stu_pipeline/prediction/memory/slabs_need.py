"""What the slabs of a case take on their way from the tiles to the mask."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stu_pipeline.inference.case_grid import CaseGrid
from stu_pipeline.inference.export_memory import forecast_export_bytes
from stu_pipeline.inference.mask_canvas import choose_mask_type
from stu_pipeline.inference.stages import plan_stages
from stu_pipeline.inference.tiles import build_tile_grid, find_extent
from stu_pipeline.inference.window_memory import WindowForecast
from stu_pipeline.nnunet.export_grid import is_export_known
from stu_pipeline.prediction.combining.ensemble import DENSE_PLANES, Ensemble
from stu_pipeline.prediction.combining.group import Group
from stu_pipeline.prediction.config import PredictConfig

_FLOAT = 4
# Of the slabs that all groups make on the image's grid, in planes of all labels: resampled scores and probabilities.
_DENSE_COPIES = 2
# The one kept of the last slab, and it beside the first of the next one.
_OLD_PLANES = 3
# nnU-Net's own export: the scores of the case, each channel in double precision on both grids; then they lie beside the
# resampled ones and their probabilities.
_ENGINE_CHANNEL_BYTES = 16
# Measures of quality are taken of so many numbers at a time, in so many bytes each.
_QUALITY_VALUES, _QUALITY_BYTES = 1 << 22, 20
# A zarr collects this much before it writes.
_ZARR_PLANES, _ZARR_BYTES = 16, 128 << 20
# What malloc keeps of freed tiles: up to this it does not ask the system for memory of their own.
_KEPT_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SlabsNeed:
    """Bytes beside the prepared image, without what is inside of networks."""

    computing: int
    """In RAM, all the time: rings, tiles, what malloc keeps of them, and the mask; on a GPU the mask alone."""
    passing: int
    """In RAM, the input and the output of a forward pass."""
    exporting: int
    """In RAM, while a slab is worked on."""
    on_gpu: int
    passes: int
    """Forward passes of one copy of one tile, at most."""
    tiles: int
    """The most that one window lays over the case."""


def forecast_slabs(
    ensemble: Ensemble,
    grids: Sequence[CaseGrid],
    config: PredictConfig,
    *,
    has_quality: bool,
    has_probabilities: bool | None = None,
) -> SlabsNeed:
    """Forecast what the slabs of a case take.

    Args:
        ensemble: the networks.
        grids: of the case, one per group.
        config: says what is made besides the mask.
        has_quality: whether slabs are measured.
        has_probabilities: whether probabilities are written; None: as the config says.
    """
    parts = [
        _Part(group, grid, axis, group.forecast(grid.network_shape, axis))
        for group, grid, axis in zip(ensemble.groups, grids, ensemble.choose_axes(grids), strict=True)
    ]
    first = parts[0]
    is_gpu = ensemble.settings.device.type == "cuda"
    writes = config.probabilities != "none" if has_probabilities is None else has_probabilities
    mask = _count_mask_bytes(first)
    held = sum(part.window.ring_bytes + part.window.group_bytes - part.window.pass_bytes for part in parts)
    held += sum(_count_merged_bytes(part) for part in parts)
    passing = max(part.window.pass_bytes for part in parts)
    exporting = _count_export_bytes(parts, writes=writes, is_gpu=is_gpu)
    added = _count_sink_bytes(first, config) if writes else 0
    added += _QUALITY_VALUES * _QUALITY_BYTES if has_quality else 0
    if len(parts) > 1 and not is_gpu:  # the slabs of one group wait while another one predicts its next tiles
        held, exporting = held + exporting, 0
    is_in_ram = not is_gpu or any(part.needs_engine for part in parts)
    counts = [count for part in parts for count in _count_tiles(part)]
    return SlabsNeed(
        computing=mask + (0 if is_gpu else held + _count_kept_bytes(parts)),
        passing=0 if is_gpu else passing,
        exporting=added + (exporting if is_in_ram else 0),
        on_gpu=held + max(passing, exporting) if is_gpu else 0,
        passes=sum(passes for _, passes in counts),
        tiles=max(tiles for tiles, _ in counts),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """What one group sees of a case."""

    group: Group
    grid: CaseGrid
    axis: int
    window: WindowForecast

    @property
    def needs_engine(self) -> bool:
        """Whether only nnU-Net knows how its scores are resampled."""
        return not is_export_known(self.group.model.configuration)


def _count_mask_bytes(part: _Part) -> int:
    return math.prod(part.grid.full_shape) * np.dtype(choose_mask_type(part.group.decision)).itemsize


def _count_export_bytes(parts: Sequence[_Part], *, writes: bool, is_gpu: bool) -> int:
    """Count the bytes of slabs on their way to the mask, the mask not included."""
    first = parts[0]
    if len(parts) > 1 or first.needs_engine:
        # Probabilities of all groups, and their mean.
        dense = sum(_count_engine_bytes(part) if part.needs_engine else _count_dense_bytes(part) for part in parts)
        return dense + (DENSE_PLANES * _count_plane_bytes(first) if len(parts) > 1 else 0)
    planes = _choose_slab_planes(first)
    pruned = forecast_export_bytes(first.grid, first.group.decision, first.axis, planes, on_gpu=is_gpu)
    return pruned - _count_mask_bytes(first) + (_count_dense_bytes(first) if writes else 0)


def _choose_slab_planes(part: _Part) -> int:
    thickest = max(find_extent(window.settings.patch_voxels)[part.axis] for window in part.group.windows)
    return min(thickest, part.grid.network_shape[part.axis])


def _count_kept_bytes(parts: Sequence[_Part]) -> int:
    """Count what malloc keeps of the tiles of every group."""
    return sum(
        min(_KEPT_BYTES, max(_FLOAT * part.group.decision.num_outputs * math.prod(window.settings.patch_voxels)
                             for window in part.group.windows))
        for part in parts
    )  # fmt: skip


def _count_merged_bytes(part: _Part) -> int:
    """Count the bytes of the mean over the patches of a group."""
    if len(part.group.windows) == 1:
        return 0
    return _choose_slab_planes(part) * _count_old_plane_bytes(part)


def _count_old_plane_bytes(part: _Part) -> int:
    shape = part.grid.network_shape
    return _FLOAT * part.group.decision.num_outputs * math.prod(shape) // shape[part.axis]


def _count_plane_bytes(part: _Part) -> int:
    shape = part.grid.cropped_shape
    return _FLOAT * part.group.decision.num_outputs * math.prod(shape) // shape[part.axis]


def _count_dense_bytes(part: _Part) -> int:
    """Count the bytes of a few planes of all labels on the image's grid, and of the old planes between two slabs."""
    return _OLD_PLANES * _count_old_plane_bytes(part) + _DENSE_COPIES * DENSE_PLANES * _count_plane_bytes(part)


def _count_engine_bytes(part: _Part) -> int:
    old, new = math.prod(part.grid.network_shape), math.prod(part.grid.cropped_shape)
    outputs = part.group.decision.num_outputs
    return _FLOAT * outputs * (old + _DENSE_COPIES * new) + _ENGINE_CHANNEL_BYTES * max(old, new)


def _count_sink_bytes(part: _Part, config: PredictConfig) -> int:
    """Count the bytes a file of probabilities collects before it writes them."""
    if config.probabilities == "npz":
        shape = part.grid.full_shape
        return 2 * _FLOAT * math.prod(shape) // shape[0]
    plane = _count_plane_bytes(part) * config.probability_bits // 32
    return max(2 * plane, min(_ZARR_BYTES, _ZARR_PLANES * plane))


def _count_tiles(part: _Part) -> Iterator[tuple[int, int]]:
    """Yield the tiles and the passes of every window."""
    for window in part.group.windows:
        settings = window.settings
        tiles = build_tile_grid(part.grid.network_shape, settings.patch_voxels, settings.step, part.axis).num_tiles
        yield tiles, tiles * plan_stages(window.networks, settings.tta, settings.effort).num_passes
