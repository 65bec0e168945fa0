"""The weights a training began with, kept for recipes that pull to them: the file they came from may be gone later.

Writes and reads: `starting_weights.safetensors` in the run folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from stu_pipeline.errors import ModelError
from stu_pipeline.storage import hash_file, write_atomically
from stu_pipeline.training.parallel.reduce import broadcast_from_main, is_main_rank, share_from_main
from stu_pipeline.training.run.start import STARTING_WEIGHTS


def copy_weights(network: nn.Module, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Copy weights of a network by name, on its device and in its layout."""
    parameters = dict(network.named_parameters())
    return {name: parameters[name].detach().clone() for name in names}


def write_starting_weights(folder: Path, weights: dict[str, torch.Tensor]) -> str:
    """Write the weights and return the file's SHA-256.

    Raises:
        StorageError: the disk is full or not writable.
    """
    path = folder / STARTING_WEIGHTS
    content = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    write_atomically(path, lambda temporary: safetensors.torch.save_file(content, temporary))
    return hash_file(path)


def read_starting_weights(
    folder: Path, sha256: str | None, network: nn.Module, names: Iterable[str]
) -> dict[str, torch.Tensor]:
    """Read the weights that a run began with, on every rank: rank 0 reads the file, the others get them.

    Args:
        folder: of the run.
        sha256: what the checkpoint says of the file.
        network: has weights of these names, in the shape, layout and place that is wanted; they are not changed.
        names: the weights that the file must hold.

    Raises:
        ModelError: the file is missing, or is not the one of this training; on all ranks.
    """
    weights = copy_weights(network, names)
    problem = share_from_main(_fill(weights, folder / STARTING_WEIGHTS, sha256) if is_main_rank() else "")
    if problem:
        raise ModelError(problem, where=folder, hint="bring the file back, or start anew with --force")
    broadcast_from_main(weights.values())
    return weights


def _fill(weights: dict[str, torch.Tensor], path: Path, sha256: str | None) -> str:
    """Read the file into tensors; return what is wrong with it."""
    if not path.is_file():
        return f"'{STARTING_WEIGHTS}' is missing: the recipe of this run pulls to the weights in it"
    if hash_file(path) != sha256:
        return f"'{STARTING_WEIGHTS}' is not the file that this run wrote"
    try:
        content = safetensors.torch.load_file(path)
        for name, weight in weights.items():
            weight.copy_(content[name])
    except (safetensors.SafetensorError, OSError, KeyError, RuntimeError) as error:
        return f"'{STARTING_WEIGHTS}' does not hold the weights of this network: {error}"
    return ""
