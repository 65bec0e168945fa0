"""Which device and computing type a prediction uses."""

from __future__ import annotations

import torch

from stu_pipeline.errors import UsageError
from stu_pipeline.inference.execution import cpu_computes_bf16


def choose_device(name: str) -> torch.device:
    """Return the device of a `--device` value; `auto` is the GPU if there is one, else the CPU.

    Raises:
        UsageError: the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    is_there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not is_there.get(device.type, True):
        raise UsageError(f"device '{name}' is not available on this machine", hint="--device cpu, or stu doctor")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device '{name}' is not there, found {torch.cuda.device_count()} GPU(s)")
    return device


def choose_autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the computing type of a `--precision` value; None is float32.

    `auto` is float16 on a GPU, as nnU-Net's; bfloat16 on a CPU that multiplies it in hardware; float32 elsewhere.

    Args:
        precision: `auto`, `bf16`, `fp16` or `fp32`.
        device: where the network runs.

    Raises:
        UsageError: float16 on a device that is not a GPU.
    """
    if precision == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if device.type == "cpu" and cpu_computes_bf16() else None
    if precision == "fp16" and device.type != "cuda":
        raise UsageError(f"precision 'fp16' needs a GPU, the device is '{device.type}'", hint="--precision bf16")
    return {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
