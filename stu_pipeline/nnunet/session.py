"""Open a trainer for one fold: device, precision, seeds, a fresh copy of the plan."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.inference.execution import cpu_computes_bf16
from stu_pipeline.log import Listener
from stu_pipeline.nnunet.settings import TrainerSettings
from stu_pipeline.nnunet.trainer import nnUNetTrainer

MIN_BF16_MAP_VOXELS = 64
"""Deepest feature map for which bf16 is trusted on the CPU; wrong gradients were seen at 8, none at 175."""


def choose_device(wanted: str) -> torch.device:
    """Choose the device: `auto` takes CUDA, else MPS, else the CPU.

    Raises:
        UsageError: the device asked for is not there.
    """
    has_mps = torch.backends.mps.is_available()
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' was asked for, but PyTorch sees no GPU", hint="stu doctor")
    if wanted == "mps" and not has_mps:
        raise UsageError("device 'mps' was asked for, but PyTorch does not offer it here", hint="stu doctor")
    return torch.device(wanted)


def choose_precision(wanted: str, device: torch.device, *, smallest_map_voxels: int | None = None) -> str:
    """Choose the precision: `auto` is bf16 where the hardware computes it, else fp16 on CUDA, else fp32.

    Args:
        wanted: `auto`, `bf16`, `fp16` or `fp32`.
        device: where the network runs.
        smallest_map_voxels: size of the deepest feature map. On the CPU, PyTorch 2.13 computes
            wrong bf16 weight gradients for maps of a few voxels (docs/decisions/0007-cpu-bf16-needs-large-maps.md),
            so `auto` takes fp32 there.

    Raises:
        UsageError: fp16 without a GPU.
    """
    if wanted == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        is_safe = smallest_map_voxels is None or smallest_map_voxels >= MIN_BF16_MAP_VOXELS
        return "bf16" if device.type == "cpu" and cpu_computes_bf16() and is_safe else "fp32"
    if wanted == "fp16" and device.type != "cuda":
        raise UsageError("fp16 needs a CUDA device", hint="use --precision bf16 or fp32")
    if wanted == "bf16" and device.type == "mps":
        raise UsageError("bf16 is not offered on MPS", hint="use --precision fp32")
    return wanted


def seed_everything(seed: int, *, deterministic: bool) -> None:
    """Seed Python, NumPy and PyTorch; with `deterministic` also ask PyTorch for deterministic kernels."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # nnU-Net's loaders draw from the global generator
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


def open_trainer(
    plan: dict[str, Any],
    dataset_json: dict[str, Any],
    *,
    configuration: str,
    fold: int | str,
    device: torch.device,
    settings: TrainerSettings,
    listen: Listener,
    is_stop_asked: Callable[[], bool],
    rank: int = 0,
) -> nnUNetTrainer:
    """Build the trainer of one fold. The caller holds `engine_environment` open.

    nnU-Net's own distributed training is not used: whatever process group is open, its trainer works alone, on the
    device it is given, and only rank 0 writes.

    Raises:
        ModelError: the plan names a network that cannot be built.
    """
    if settings.seed is not None:
        seed_everything(settings.seed, deterministic=settings.deterministic)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not settings.deterministic
    # The engine pops this key from the dict it is given.
    plans = {**copy.deepcopy(plan), "continue_training": False}
    trainer = nnUNetTrainer(plans, configuration, fold, copy.deepcopy(dataset_json), device)
    trainer.apply_settings(settings, listen, is_stop_asked)
    trainer.device, trainer.local_rank, trainer.is_ddp = device, rank, False
    try:
        trainer.initialize()
    except (ImportError, TypeError) as error:
        raise ModelError(f"the network of plan '{plan.get('plans_name')}' cannot be built: {error}") from error
    return trainer
