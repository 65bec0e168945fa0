"""nnU-Net's SGD in the form our steps need, and its state as stock checkpoints hold it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_FUSED_DEVICES = ("cpu", "cuda", "mps")
# How PyTorch computes a step is a choice of the run, not a part of its state: a stock trainer chooses for itself.
_CHOICES_OF_A_RUN = ("fused", "foreach")


def build_optimizer(
    network: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    groups: Sequence[tuple[Sequence[str], float]] = (),
) -> torch.optim.SGD:
    """Build SGD with nnU-Net's momentum, fused, so that a step can be skipped on the device without asking it.

    The momentum starts as zeros instead of being made by the first step: the numbers are the same, a first step that
    is skipped leaves no memory uninitialised, and no step allocates.

    Args:
        network: the bare network.
        learning_rate: of all weights.
        weight_decay: of all weights, where there are no groups.
        groups: names of weights and their weight decay; together all weights, each once. None are one group in the
            network's order, as stock nnU-Net has it; several cannot be continued there.

    Raises:
        ValueError: a weight is in no group, in two, or unknown.
    """
    device = next(network.parameters()).device
    optimizer = torch.optim.SGD(
        _group_weights(network, groups) if groups else network.parameters(),
        learning_rate,
        weight_decay=weight_decay,
        momentum=0.99,
        nesterov=True,
        fused=device.type in _FUSED_DEVICES,
    )
    for group in optimizer.param_groups:
        for weight in group["params"]:
            optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer


def _group_weights(network: nn.Module, groups: Sequence[tuple[Sequence[str], float]]) -> list[dict[str, Any]]:
    weights = dict(network.named_parameters())
    named = [name for names, _ in groups for name in names]
    if sorted(named) != sorted(weights):
        wrong = sorted(set(named) ^ set(weights)) or [name for name in weights if named.count(name) > 1]
        raise ValueError(f"parameter groups do not hold every weight once: '{wrong[0]}'")
    return [{"params": [weights[name] for name in names], "weight_decay": decay} for names, decay in groups]


def make_stock_optimizer_state(state: dict[str, Any], *, is_slim: bool) -> dict[str, Any]:
    """Return an optimizer's state as stock nnU-Net reads it; a slim one has no momentum."""
    groups = [{**group, **dict.fromkeys(_CHOICES_OF_A_RUN)} for group in state["param_groups"]]
    return {"state": {} if is_slim else state["state"], "param_groups": groups}


def make_own_optimizer_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of a checkpoint, ours, slim or stock, for our optimizer: missing momentum is zero.

    Raises:
        ValueError: it has another number of parameters.
    """
    own = optimizer.state_dict()
    if [len(group["params"]) for group in state["param_groups"]] != [len(g["params"]) for g in own["param_groups"]]:
        raise ValueError("optimizer state has another number of parameters")
    groups = [
        {**loaded, **{name: mine[name] for name in _CHOICES_OF_A_RUN if name in mine}}
        for loaded, mine in zip(state["param_groups"], own["param_groups"], strict=True)
    ]
    momentum = {}
    for index, mine in own["state"].items():
        loaded = state["state"].get(index, {}).get("momentum_buffer")
        momentum[index] = {"momentum_buffer": torch.zeros_like(mine["momentum_buffer"]) if loaded is None else loaded}
    return {"state": momentum, "param_groups": groups}
