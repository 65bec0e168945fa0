"""torch.compile, tried on a tiny step first: a machine without a compiler trains on without it."""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from stu_pipeline.training.loop.step import run_network

_log = logging.getLogger("stu_pipeline.training")
# What a missing compiler, missing headers or an operator it cannot handle show up as.
_FAILURES = (
    RuntimeError,
    OSError,
    ImportError,
    AttributeError,
    TypeError,
    ValueError,
    LookupError,
    NotImplementedError,
)


def choose_compilation(wanted: str, device: torch.device) -> bool:
    """Tell whether to compile: `auto` does so on CUDA under Linux, where nnU-Net does."""
    if wanted == "auto":
        return device.type == "cuda" and platform.system() == "Linux"
    return wanted == "on"


def compile_network(
    network: nn.Module,
    *,
    num_channels: int,
    strides: tuple[int, ...],
    device: torch.device,
    precision: str,
    compile_module: Callable[[nn.Module], Any] = torch.compile,
) -> tuple[nn.Module, str]:
    """Compile a network, or return it as it is with the reason.

    A forward and a backward pass of the smallest patch the network takes show whether the compiler works; the real
    patch is compiled at the first step.

    Args:
        network: on the device.
        num_channels: of its input.
        strides: product of its strides per axis.
        device: where it is.
        precision: `bf16`, `fp16` or `fp32`.
        compile_module: for tests.

    Returns:
        The network to train, and why it is not compiled; '' when it is.
    """
    compiled = compile_module(network)
    was_training = network.training
    # Two voxels at the deepest level: instance norm refuses to work with one.
    sizes = [stride * (2 if axis == len(strides) - 1 else 1) for axis, stride in enumerate(strides)]
    try:
        outputs = run_network(compiled.train(), torch.randn(1, num_channels, *sizes, device=device), precision)
        torch.autograd.backward(torch.stack([output.float().mean() for output in outputs]).sum())
    except _FAILURES as error:
        _log.warning("torch.compile failed: %s", error)
        torch.compiler.reset()
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return network, f"torch.compile does not work here, training goes on without it: {first[:160]}"
    finally:
        network.train(was_training)
        network.zero_grad(set_to_none=True)
    _log.info("torch.compile works, probed with %d voxels", math.prod(sizes))
    return compiled, ""
