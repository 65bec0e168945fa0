"""What the process takes whatever the case: libraries and weights, and what is inside of a network in one pass."""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from stu_pipeline.inference.window_memory import choose_cpu_batch
from stu_pipeline.inference.window_settings import WindowNetwork
from stu_pipeline.nnunet.memory_meter import open_meter
from stu_pipeline.prediction.combining.ensemble import Ensemble
from stu_pipeline.prediction.combining.group import Group, Window

_STATUS = Path("/proc/self/status")
_FLOAT = 4
# A U-Net keeps its skips, at most two full-size maps in sum, and works on the concatenation of two, its normalised
# copy and the next one; twice that is never reached.
_MAPS_AT_ONCE = 12
# Reading and writing load these, if they are not there yet.
_LATE_LIBRARIES = ("SimpleITK", "imagecodecs", "numpy.random", "stu_pipeline.nnunet.mask_file")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessNeed:
    """Bytes of a process that predicts."""

    resident: int
    """In RAM, with all networks loaded, before the first case."""
    peak_so_far: int
    """In RAM, while checkpoints were read."""
    pass_bytes: int
    """In RAM, what a forward pass adds at its worst moment, without its input and output."""
    weights_on_gpu: int = 0
    pass_on_gpu: int = 0
    """Of one copy of a tile; more run at once where there is room."""
    is_measured: bool = False
    """Whether a pass was run; else it is bounded from the first layer."""


def bound_process(ensemble: Ensemble) -> ProcessNeed:
    """Bound what the process takes without running anything: rather far too high than too low."""
    is_gpu = ensemble.settings.device.type == "cuda"
    found = [_bound_pass(window) for _, window in _list_windows(ensemble)]
    return ProcessNeed(
        resident=_read_status("VmRSS"),
        peak_so_far=_read_status("VmHWM"),
        pass_bytes=0 if is_gpu else max(found),
        weights_on_gpu=_count_gpu_weights(ensemble),
        pass_on_gpu=max(found) if is_gpu else 0,
    )


def measure_process(ensemble: Ensemble, *, max_tiles: int | None = None) -> ProcessNeed:
    """Measure what the process takes: one pass of every network that differs, on zeros.

    Args:
        ensemble: the networks.
        max_tiles: of the largest image, which bounds the copies of a pass; None: there are enough.
    """
    for name in _LATE_LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    resident, peak = _read_status("VmRSS"), _read_status("VmHWM")
    is_gpu = ensemble.settings.device.type == "cuda"
    largest = 0
    for group, window in _list_windows(ensemble):
        for network in _list_different(window.networks):
            largest = max(largest, _measure_pass(group, window, network, max_tiles))
    return ProcessNeed(
        resident=resident,
        peak_so_far=peak,
        # What stays in the process after the passes is there for good.
        pass_bytes=0 if is_gpu else largest,
        weights_on_gpu=_count_gpu_weights(ensemble),
        pass_on_gpu=largest if is_gpu else 0,
        is_measured=True,
    )


@torch.inference_mode()
def _measure_pass(group: Group, window: Window, network: WindowNetwork, max_tiles: int | None) -> int:
    device, patch = window.settings.device, window.settings.patch_voxels
    copies = 1 if device.type == "cuda" else window.memory.batch or choose_cpu_batch(patch)
    if max_tiles is not None:
        copies = min(copies, max_tiles * len(network.mirrorings))
    x = torch.zeros((copies, group.model.num_network_channels, *patch), device=device)
    meter = open_meter(device)
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    meter.start()
    with _autocast(device, network.autocast):
        output = network.run(x)
    used = meter.read()
    peak = used.peak if used.tensors is None else used.tensors - held
    return max(0, peak - output.nbytes)


def _bound_pass(window: Window) -> int:
    patch = math.prod(window.settings.patch_voxels)
    copies = 1 if window.settings.device.type == "cuda" else window.memory.batch or choose_cpu_batch(
        window.settings.patch_voxels
    )  # fmt: skip
    width = max(_find_width(network.run) for network in window.networks)
    return _FLOAT * _MAPS_AT_ONCE * width * patch * copies


def _find_width(run: Callable[[torch.Tensor], torch.Tensor]) -> int:
    """Return the channels of the first convolution."""
    if not isinstance(run, nn.Module):
        return 1
    return next((len(tensor) for tensor in run.parameters() if tensor.ndim >= 4), 1)


def _list_windows(ensemble: Ensemble) -> Iterator[tuple[Group, Window]]:
    for group, previous in zip(ensemble.groups, ensemble.previous, strict=True):
        yield from ((group, window) for window in group.windows)
        if previous is not None:
            yield from _list_windows(previous)


def _list_different(networks: Sequence[WindowNetwork]) -> list[WindowNetwork]:
    """Return one network of each size; folds of a model are alike."""
    found: dict[int, WindowNetwork] = {}
    for network in networks:
        size = sum(tensor.numel() for tensor in network.run.parameters()) if isinstance(network.run, nn.Module) else 0
        found.setdefault(size, network)
    return list(found.values())


def _count_gpu_weights(ensemble: Ensemble) -> int:
    tensors = {
        tensor.data_ptr(): tensor.nbytes
        for _, window in _list_windows(ensemble)
        for network in window.networks
        if isinstance(network.run, nn.Module)
        for tensor in (*network.run.parameters(), *network.run.buffers())
        if tensor.device.type == "cuda"
    }
    return sum(tensors.values())


def _autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def _read_status(key: str) -> int:
    """Return a size of this process in bytes; 0 where the system does not tell."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)
