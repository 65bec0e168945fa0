"""The order of a tensor's numbers in memory: channels last where this machine's convolutions are faster with it."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from stu_pipeline.nnunet.memory_meter import is_out_of_memory
from stu_pipeline.training.loop.step import run_network

Layout = torch.memory_format
LAYOUTS: dict[str, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last_3d,
}
_NUM_TIMED = 3
_MAX_SIZE = 64
# Timing is never exact: what pays must pay clearly.
_LEAST_GAIN = 0.05


def choose_layout(
    network: nn.Module,
    *,
    num_channels: int,
    patch: tuple[int, ...],
    strides: tuple[int, ...],
    device: torch.device,
    precision: str,
) -> str:
    """Time a few steps in both layouts, and return the name of the faster one.

    Flat networks stay contiguous. The network's weights and gradients are left as they were.

    Args:
        network: on the device, not yet compiled or wrapped.
        num_channels: of its input.
        patch: of the plan; larger ones are timed at 64 voxels per axis.
        strides: product of the network's strides per axis.
        device: where it is.
        precision: `bf16`, `fp16` or `fp32`.
    """
    if len(patch) == 2:
        return "contiguous"
    sizes = [max(stride, min(size, _MAX_SIZE) // stride * stride) for size, stride in zip(patch, strides, strict=True)]
    data = torch.randn(1, num_channels, *sizes, device=device)
    was_training = network.training
    network.train()
    try:
        seconds = {name: _time_steps(network, data, precision, layout) for name, layout in LAYOUTS.items()}
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return "contiguous"  # the steps themselves know what to do about it
    finally:
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        network.train(was_training)
        network.zero_grad(set_to_none=True)
    return "channels_last" if seconds["channels_last"] < seconds["contiguous"] * (1 - _LEAST_GAIN) else "contiguous"


def apply_layout(network: nn.Module, name: str) -> None:
    """Bring a network's weights into a layout."""
    if name != "contiguous":
        network.to(memory_format=LAYOUTS[name])  # type: ignore[call-overload]


def _time_steps(network: nn.Module, data: torch.Tensor, precision: str, layout: Layout) -> float:
    network.to(memory_format=layout)  # type: ignore[call-overload]
    data = data.contiguous(memory_format=layout)
    seconds = []
    for _ in range(1 + _NUM_TIMED):
        start = time.perf_counter()
        outputs = run_network(network, data, precision)
        torch.autograd.backward(torch.stack([output.float().mean() for output in outputs]).sum())
        if data.device.type == "cuda":
            torch.cuda.synchronize(data.device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])
