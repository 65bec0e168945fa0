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
from stu_pipeline.nnunet.export_grid import is_export_known
from stu_pipeline.prediction.config import PredictConfig
from stu_pipeline.prediction.ensemble import DENSE_PLANES, Ensemble
from stu_pipeline.prediction.group import Group

_FLOAT = 4
# Of the slabs that all groups make on the image's grid, in planes of all labels: resampled scores and probabilities.
_DENSE_COPIES = 2
# nnU-Net's own export: the slabs and their sum, then each channel in double precision on both grids.
_ENGINE_COPIES, _ENGINE_CHANNEL_BYTES = 2, 16
# Measures of quality are taken of so many numbers at a time, in so many bytes each.
_QUALITY_VALUES, _QUALITY_BYTES = 1 << 22, 20
# A zarr collects this much before it writes.
_ZARR_PLANES, _ZARR_BYTES = 16, 128 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SlabsNeed:
    """Bytes beside the prepared image, without what is inside of networks."""

    computing: int
    """In RAM, all the time: rings, tiles and the mask; on a GPU the mask alone."""
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
    axes = ensemble.choose_axes(grids)
    windows = [
        group.forecast(grid.network_shape, axis) for group, grid, axis in zip(ensemble.groups, grids, axes, strict=True)
    ]
    is_gpu = ensemble.settings.device.type == "cuda"
    mask = math.prod(grids[0].full_shape) * np.dtype(choose_mask_type(ensemble.groups[0].decision)).itemsize
    writes = config.probabilities != "none" if has_probabilities is None else has_probabilities
    is_engine = [not is_export_known(group.model.configuration) for group in ensemble.groups]
    rings = sum(window.ring_bytes + window.group_bytes - window.pass_bytes for window in windows)
    passing = max(window.pass_bytes for window in windows)
    if len(ensemble.groups) == 1 and not is_engine[0]:
        group, grid, axis = ensemble.groups[0], grids[0], axes[0]
        slab = _choose_slab_planes(group, grid, axis)
        working = forecast_export_bytes(grid, group.decision, axis, slab, on_gpu=is_gpu) - mask
        merged = _count_merged_bytes(group, grid, axis)
        dense = _count_dense_bytes(group, grid, axis) if writes else 0
    else:
        merged = sum(
            _count_merged_bytes(group, grid, axis)
            for group, grid, axis in zip(ensemble.groups, grids, axes, strict=True)
        )
        dense = sum(
            _count_engine_bytes(group, grid) if engine else _count_dense_bytes(group, grid, axis)
            for group, grid, axis, engine in zip(ensemble.groups, grids, axes, is_engine, strict=True)
        )
        working = _count_plane_bytes(ensemble.groups[0], grids[0], axes[0]) * DENSE_PLANES  # their mean
    added = _count_sink_bytes(ensemble.groups[0], grids[0], axes[0], config) if writes else 0
    added += _QUALITY_VALUES * _QUALITY_BYTES if has_quality else 0
    exporting = working + dense
    counts = [
        count
        for group, grid, axis in zip(ensemble.groups, grids, axes, strict=True)
        for count in _count_tiles(group, grid, axis)
    ]
    return SlabsNeed(
        computing=mask + (0 if is_gpu else rings + merged),
        exporting=added + (0 if is_gpu and not any(is_engine) else exporting),
        passing=0 if is_gpu else passing,
        on_gpu=rings + merged + max(passing, exporting) if is_gpu else 0,
        passes=sum(passes for _, passes in counts),
        tiles=max(tiles for tiles, _ in counts),
    )


def _choose_slab_planes(group: Group, grid: CaseGrid, axis: int) -> int:
    thickest = max(find_extent(window.settings.patch_voxels)[axis] for window in group.windows)
    return min(thickest, grid.network_shape[axis])


def _count_merged_bytes(group: Group, grid: CaseGrid, axis: int) -> int:
    """Count the bytes of the mean over the patches of a group."""
    if len(group.windows) == 1:
        return 0
    planes = _choose_slab_planes(group, grid, axis)
    return _FLOAT * group.decision.num_outputs * planes * math.prod(grid.network_shape) // grid.network_shape[axis]


def _count_plane_bytes(group: Group, grid: CaseGrid, axis: int) -> int:
    return _FLOAT * group.decision.num_outputs * math.prod(grid.cropped_shape) // grid.cropped_shape[axis]


def _count_dense_bytes(group: Group, grid: CaseGrid, axis: int) -> int:
    """Count the bytes of a few planes of all labels on the image's grid, and of the two old planes between slabs."""
    kept = 3 * _FLOAT * group.decision.num_outputs * math.prod(grid.network_shape) // grid.network_shape[axis]
    return kept + _DENSE_COPIES * DENSE_PLANES * _count_plane_bytes(group, grid, axis)


def _count_engine_bytes(group: Group, grid: CaseGrid) -> int:
    old, new = math.prod(grid.network_shape), math.prod(grid.cropped_shape)
    outputs = group.decision.num_outputs
    return _FLOAT * outputs * (_ENGINE_COPIES * old + _DENSE_COPIES * new) + _ENGINE_CHANNEL_BYTES * max(old, new)


def _count_sink_bytes(group: Group, grid: CaseGrid, axis: int, config: PredictConfig) -> int:
    """Count the bytes a file of probabilities collects before it writes them."""
    if config.probabilities == "npz":
        return 2 * _FLOAT * math.prod(grid.full_shape) // grid.full_shape[0]
    plane = _count_plane_bytes(group, grid, axis) * config.probability_bits // 32
    return max(2 * plane, min(_ZARR_BYTES, _ZARR_PLANES * plane))


def _count_tiles(group: Group, grid: CaseGrid, axis: int) -> Iterator[tuple[int, int]]:
    """Yield the tiles and the passes of every window."""
    for window in group.windows:
        settings = window.settings
        tiles = build_tile_grid(grid.network_shape, settings.patch_voxels, settings.step, axis).num_tiles
        yield tiles, tiles * plan_stages(window.networks, settings.tta, settings.effort).num_passes
