"""How much of a window runs at once: chosen before, and less of it when memory is full after all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stu_pipeline.inference.ring import count_ring_bytes
from stu_pipeline.inference.stages import StagePlan, plan_stages
from stu_pipeline.inference.tiles import build_tile_grid
from stu_pipeline.inference.window_settings import WindowNetwork, WindowSettings

_CPU_VOXELS = 1 << 18
"""Per thread, for two threads at least: scale S on one core took 0.72, 0.41, 0.28 and 0.36 s a copy of 40x56x40 in
passes of 1, 2, 4 and 8, and 0.72, 0.72 and 0.84 s a copy of 64x64x64 in passes of 1, 2 and 4."""
_MIN_THREADS = 2
_GPU_VOXELS = 1 << 25
"""Beyond it, the features of a pass have more elements than a 32-bit index counts."""
_MAX_COPIES = 256
_GPU_SHARE = 0.7
"""Of the free memory of a GPU: larger batches may be computed by ways that need more per copy."""
_RING_SHARE = 0.5
_FLOAT_BYTES = 4


@dataclass(slots=True, kw_only=True)
class WindowMemory:
    """What windows of one patch and one set of networks found out about memory; hand it on from case to case."""

    batch: int | None = None
    """Copies of tiles in one forward pass; None: not known yet."""
    results_on_cpu: bool = False
    """Whether logits are added up on the CPU, whatever the settings say."""
    networks_on_cpu: bool = False
    """Whether networks wait on the CPU while another one runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowForecast:
    """Bytes of a window without the features inside of networks, and without the image."""

    ring_bytes: int
    """On the results' device, exact: see `count_ring_bytes`."""
    group_bytes: int
    """On the computing device: tiles, the sums of their logits, the input and output of one pass."""
    pass_bytes: int
    """The part of them that one pass holds, and leaves before the tiles are added to the ring."""


def forecast_window_bytes(
    settings: WindowSettings,
    image_shape: Sequence[int],
    num_channels: int,
    networks: Sequence[WindowNetwork],
    *,
    batch: int | None = None,
) -> WindowForecast:
    """Count the bytes a window holds.

    The ring has `4 * (outputs + 1) * t * a * b + 4 * prod(patch)` bytes: `t` planes of the patch along the walk axis,
    `a * b` voxels of a plane, at least those of the patch. A group of `n` tiles in passes of `b` copies has, per voxel
    of the patch, `4 * n * (channels + sums * outputs) + 4 * b * (channels + 2 * outputs)` bytes, the 2 being 1 without
    mirrored copies; there is one sum, and one more for each level and number of copies where tiles can be left early.

    Args:
        settings: of the window.
        image_shape: `(z, y, x)`.
        num_channels: of the image.
        networks: of the window.
        batch: copies per pass; None: as on a CPU.
    """
    grid = build_tile_grid(image_shape, settings.patch_voxels, settings.step, settings.axis)
    plan = plan_stages(networks, settings.tta, settings.effort)
    copies = batch or settings.max_tiles or choose_cpu_batch(settings.patch_voxels)
    tiles = min(count_group_tiles(plan, copies), grid.num_tiles)
    copies = min(copies, tiles * max(len(network.mirrorings) for network in networks))
    per_tile = num_channels + len(plan.slot_weights) * settings.num_outputs
    # A mirrored output is turned back into a copy.
    per_copy = num_channels + (2 if plan.max_copies > 1 else 1) * settings.num_outputs
    voxels = math.prod(settings.patch_voxels)
    return WindowForecast(
        ring_bytes=count_ring_bytes(grid, settings.num_outputs),
        group_bytes=_FLOAT_BYTES * voxels * (tiles * per_tile + copies * per_copy),
        pass_bytes=_FLOAT_BYTES * voxels * copies * per_copy,
    )


def count_group_tiles(plan: StagePlan, batch: int) -> int:
    """Choose how many tiles are worked on together, so that the first stage fills its passes."""
    return max(1, batch // max(len(passes.mirrorings) for passes in plan.stages[0].passes))


def choose_cpu_batch(patch_voxels: Sequence[int]) -> int:
    """Choose the copies in one pass on a CPU: small patches run faster together, large ones do not."""
    voxels = _CPU_VOXELS * max(_MIN_THREADS, torch.get_num_threads())
    return min(max(1, voxels // math.prod(patch_voxels)), _MAX_COPIES)


def choose_gpu_batch(patch_voxels: Sequence[int], bytes_per_copy: int, device: torch.device) -> int:
    """Choose the copies in one pass on a GPU from its free memory and what one copy needed."""
    fitting = int(_GPU_SHARE * _count_free_bytes(device) / max(bytes_per_copy, 1))
    return max(1, min(fitting, _GPU_VOXELS // math.prod(patch_voxels), _MAX_COPIES))


def is_room_for_ring(ring_bytes: int, device: torch.device) -> bool:
    """Tell whether logits can be added up on a device and leave as much of a GPU for the networks."""
    return device.type != "cuda" or ring_bytes <= _RING_SHARE * _count_free_bytes(device)


def _count_free_bytes(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
