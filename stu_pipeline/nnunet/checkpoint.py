"""Read and write checkpoints as data: no code in them is run, and damage is an error.

Reads: `checkpoint_*.pth` of ours and of stock nnU-Net (a zip archive of `torch.save`). Writes: ours.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stu_pipeline.errors import ModelError, NonFiniteError
from stu_pipeline.nnunet.checkpoint_archive import load_archive
from stu_pipeline.storage import write_atomically

REQUIRED_KEYS = ("network_weights", "init_args", "trainer_name")
"""What every checkpoint must hold; a training asks for more."""


def read_checkpoint(
    path: Path, *, required: Sequence[str] = REQUIRED_KEYS, without: Sequence[str] = ()
) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Every byte is checked against the archive's checksums first, which torch itself does not do.

    Args:
        path: the `.pth` file.
        required: keys that must be there.
        without: keys to leave out, for example the optimizer's state; they take no memory.

    Raises:
        ModelError: missing, cut, damaged, not a checkpoint, or holding anything but tensors and plain values.
        NonFiniteError: a weight is NaN or infinite; the message names the tensor.
    """
    checkpoint = load_archive(path)
    if not isinstance(checkpoint, dict):
        raise ModelError(
            f"'{path.name}' is not a checkpoint: it holds a {type(checkpoint).__name__}", where=path.parent
        )
    missing = [key for key in required if key not in checkpoint]
    if missing:
        raise ModelError(
            f"'{path.name}' is not a complete nnU-Net checkpoint, missing: {', '.join(missing)}",
            where=path.parent,
            hint="use a checkpoint written by stu train or nnUNetv2_train",
        )
    if "network_weights" in checkpoint:
        _check_weights(checkpoint["network_weights"], path)
    # A copy, because stock nnU-Net writes over its checkpoints in place: a mapped tensor would then kill us (SIGBUS).
    return copy.deepcopy({key: value for key, value in checkpoint.items() if key not in without})


def write_checkpoint(path: Path, checkpoint: Mapping[str, Any], *, num_kept: int = 0) -> None:
    """Write a checkpoint atomically.

    Args:
        path: its final name.
        checkpoint: tensors and plain values.
        num_kept: how many of its predecessors stay, as `previous_path(path, age)`.

    Raises:
        StorageError: the disk is full or not writable; what was there is untouched.
    """

    def write(temporary: Path) -> None:
        # Through a stream: given a path, torch forgets why the system refused a write.
        with temporary.open("wb") as stream:
            torch.save(dict(checkpoint), stream)

    write_atomically(path, write, num_kept=num_kept)


def require_finite_weights(weights: Mapping[str, torch.Tensor], where: Path | None = None) -> None:
    """Refuse weights with NaN or infinite values. Whole-number tensors and empty ones pass.

    Raises:
        NonFiniteError: naming the first such tensor and how many values of it are wrong.
    """
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or math.isfinite(float(tensor.sum(dtype=torch.float64))):
            continue
        num_wrong = int((~torch.isfinite(tensor)).sum())
        if num_wrong:
            raise NonFiniteError(
                f"weights '{name}' hold {num_wrong} of {tensor.numel()} values that are NaN or infinite",
                where=where,
                hint="use an earlier checkpoint; the training diverged",
            )


def _check_weights(weights: object, path: Path) -> None:
    if not isinstance(weights, dict) or not weights:
        raise ModelError(f"'{path.name}' holds no network weights", where=path.parent)
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ModelError(
                f"'{path.name}' holds a {type(tensor).__name__} at '{name}' of network_weights, expected a tensor",
                where=path.parent,
            )
    require_finite_weights(weights, path)
