"""Forecast the RAM of a training's processes and of predicting one case, and what its checkpoints take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stu_pipeline.planning.memory import BYTES_PER_GIB
from stu_pipeline.preprocessed_size import BYTES_PER_LABEL, BYTES_PER_VALUE

# nnU-Net's augmentation: rotations up to 30 degrees, or half turns in the plane of flat patches; zoomed by 0.85.
_MAX_ROTATION_DEGREES, _FLAT_ROTATION_DEGREES, _NARROW_ROTATION_DEGREES = 30.0, 90.0, 15.0
_MIN_ZOOM = 0.85
_FLAT_RATIO, _NARROW_RATIO = 3.0, 1.5
_PLANE = 2
# Logits come back to the image's grid through a float64 copy.
_RESAMPLING_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSizes:
    """The median case in voxels, and what is held per voxel of it."""

    original_voxels: float
    resampled_voxels: float
    num_channels: int
    num_outputs: int
    num_mask_channels: int = 0
    """Channels made from a previous stage's mask, on the resampled grid."""


def forecast_training_ram_gib(
    host: Mapping[str, Any], *, patch: Sequence[int], batch: int, num_channels: int, num_mask_channels: int = 0
) -> float:
    """Forecast the RAM of a training: the main process, the loader's processes and the samples that wait in memory.

    Args:
        host: the content of `plans/host.json`.
        patch: in voxels.
        batch: samples per batch.
        num_channels: of the image.
        num_mask_channels: made from a previous stage's mask once a sample has its final size.
    """
    num_label_maps = 2 if num_mask_channels else 1
    voxel_bytes = num_channels * BYTES_PER_VALUE + num_label_maps * BYTES_PER_LABEL
    workers, validation_workers = host["loader_workers"], 1 + host["loader_workers"] // 4
    waiting = _forecast_waiting_bytes(host, batch, workers, math.prod(enlarge_patch(patch)) * voxel_bytes)
    waiting += _forecast_waiting_bytes(host, batch, validation_workers, math.prod(patch) * voxel_bytes)
    batch_bytes = batch * math.prod(patch) * (voxel_bytes + num_mask_channels * BYTES_PER_VALUE)
    moving_gib = (waiting + host["batches_in_flight"] * batch_bytes) / BYTES_PER_GIB
    return float(host["main_process_gib"] + (workers + validation_workers) * host["worker_gib"] + moving_gib)


def _forecast_waiting_bytes(host: Mapping[str, Any], batch: int, workers: int, sample_bytes: float) -> float:
    """Return what samples take that are read ahead: two batches at least, else as many as the limit allows."""
    wanted = 2 * batch + 2 * workers
    return float(max(2 * batch * sample_bytes, min(wanted * sample_bytes, host["prefetch_gib"] * BYTES_PER_GIB)))


def enlarge_patch(patch: Sequence[int]) -> tuple[int, ...]:
    """Return the size that is cut from the image so that rotation and zoom stay inside it, at least.

    The most that is read for one sample. Axes as in the patch.
    """
    if len(patch) == _PLANE:
        degrees = _NARROW_ROTATION_DEGREES if max(patch) / min(patch) > _NARROW_RATIO else _FLAT_ROTATION_DEGREES
        return _rotate_and_zoom(patch, degrees)
    if max(patch) / patch[0] > _FLAT_RATIO:
        # All three rotations count before the thin axis is put back, as in nnU-Net.
        return (patch[0], *_rotate_and_zoom(patch, _FLAT_ROTATION_DEGREES)[1:])
    return _rotate_and_zoom(patch, _MAX_ROTATION_DEGREES)


def forecast_prediction_ram_gib(host: Mapping[str, Any], sizes: CaseSizes) -> float:
    """Forecast the RAM of predicting the median case with one fold.

    Held at once: this case and the next one, raw and prepared, one padded copy; the logits on the resampled grid,
    in float64 too when they go back to another grid; the logits on the image's grid, and the mask.
    """
    images = 2 * (sizes.original_voxels + sizes.resampled_voxels) + sizes.resampled_voxels
    is_resampled = round(sizes.original_voxels) != round(sizes.resampled_voxels)
    per_output = BYTES_PER_VALUE * sizes.resampled_voxels
    if is_resampled:
        per_output += _RESAMPLING_BYTES * sizes.resampled_voxels + BYTES_PER_VALUE * sizes.original_voxels
    held = BYTES_PER_VALUE * sizes.num_channels * images + sizes.num_outputs * per_output
    # The mask's channels, and one padded copy of them.
    held += 2 * BYTES_PER_VALUE * sizes.num_mask_channels * sizes.resampled_voxels
    held += BYTES_PER_LABEL * sizes.original_voxels
    return float(host["main_process_gib"] + held / BYTES_PER_GIB)


def forecast_checkpoints_gib(host: Mapping[str, Any], num_parameters: int) -> float:
    """Forecast the disk that the checkpoints of one fold take."""
    return float(host["checkpoints_kept"] * host["checkpoint_bytes_per_parameter"] * num_parameters / BYTES_PER_GIB)


def count_tiles(median_shape: Sequence[float], patch: Sequence[int], *, step: float = 0.5) -> int:
    """Count the positions of a sliding window over an image, at most `step` patches apart; same axes."""
    return math.prod(
        math.ceil(max(0.0, size - edge) / (edge * step)) + 1 for size, edge in zip(median_shape, patch, strict=True)
    )


def _rotate_and_zoom(patch: Sequence[int], degrees: float) -> tuple[int, ...]:
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    reach = [float(size) for size in patch]
    for first, second in itertools.permutations(range(len(patch)), 2):
        reach[first] = max(reach[first], patch[first] * cosine + patch[second] * sine)
    return tuple(int(size / _MIN_ZOOM) for size in reach)
