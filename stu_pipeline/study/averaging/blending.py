"""Average the weights of checkpoints of one network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stu_pipeline.errors import ModelError
from stu_pipeline.nnunet.checkpoint import read_checkpoint
from stu_pipeline.nnunet.settings import SETTINGS_KEY

_UNUSED = ("optimizer_state", "grad_scaler_state")


def blend_checkpoints(paths: Sequence[Path]) -> dict[str, Any]:
    """Return a checkpoint with the mean of the weights of others, and the rest of the first.

    One file is held in memory beside the sum. Sums are made in float64.

    Args:
        paths: at least one.

    Raises:
        ModelError: they are of different networks.
    """
    first = read_checkpoint(paths[0], without=_UNUSED)
    weights: dict[str, torch.Tensor] = first["network_weights"]
    sums = {name: tensor.double() for name, tensor in weights.items()}
    for path in paths[1:]:
        other = read_checkpoint(path, without=_UNUSED)["network_weights"]
        if {name: tensor.shape for name, tensor in other.items()} != {name: t.shape for name, t in weights.items()}:
            raise ModelError(f"'{path.name}' is of another network than '{paths[0].name}'", where=path.parent)
        for name, tensor in other.items():
            sums[name] += tensor.double()
    blended = copy.copy(first)
    blended["network_weights"] = {name: (total / len(paths)).to(weights[name].dtype) for name, total in sums.items()}
    # An average has no momentum, and no training that could go on.
    blended["optimizer_state"] = {"state": {}, "param_groups": []}
    blended["grad_scaler_state"] = None
    return blended


def find_start(path: Path) -> str | None:
    """Return what identifies the weights that a training began with; None when it began with noise or is not ours."""
    own = read_checkpoint(path, without=(*_UNUSED, "network_weights"), required=()).get(SETTINGS_KEY) or {}
    start = own.get("start")
    return str(start["identity"]) if isinstance(start, dict) and start.get("identity") else None
