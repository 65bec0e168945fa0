"""Shard a network over ranks (FSDP2): each keeps a part of weights, gradients and momentum. For scale H.

Checkpoints stay whole: rank 0 gathers them, tensor by tensor, in the form that one process would write.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.sgd import sgd

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.blocks import ResidualStage
from stu_pipeline.training.parallel.ranks import Ranks
from stu_pipeline.training.parallel.reduce import share_from_main
from stu_pipeline.training.parallel.wrap import freeze

_SGD_SETTINGS = ("weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize")


def shard_network(network: nn.Module, ranks: Ranks, device: torch.device, *, idle: Collection[str] = ()) -> nn.Module:
    """Shard a network in place, stage by stage, and return it. For one process it is returned as it is.

    A stage is the unit: activation checkpointing works inside it, and its weights are whole only while it runs.
    Load or initialise the weights alike on all ranks before, or call `load_weights` after. Build the optimizer
    AFTER it: the parameters are other objects. Gradients are the mean over the ranks, as with DDP, and every rank
    must run the same number of forward passes (`require_even_shares`).

    Args:
        network: on `device`; other networks than STU-Net are sharded as one unit.
        ranks: inside `open_ranks`.
        device: as `open_ranks` yields it.
        idle: names of parameters that get no gradient.
    """
    if ranks.is_alone:
        return network
    freeze(network, idle)
    mesh = init_device_mesh(device.type, (ranks.world_size,))
    for module in network.modules():
        if isinstance(module, ResidualStage):
            fully_shard(module, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


def is_sharded(network: nn.Module) -> bool:
    """Tell whether `shard_network` made parts of a network."""
    return isinstance(network, FSDPModule)


def move_weights(optimizer: torch.optim.SGD) -> None:
    """Take a step of a fused SGD on the parts that this rank holds: `optimizer.step()` of a sharded network.

    PyTorch's fused kernels know no sharded tensors (2.13), and each weight moves by itself anyway. Where the
    optimizer carries `found_inf`, the kernel looks at it and moves nothing; gradients are clipped before.
    """
    for group in optimizer.param_groups:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        sgd(
            [_own_part(weight) for weight in weights],
            [_own_part(weight.grad) for weight in weights],
            [_own_part(optimizer.state[weight]["momentum_buffer"]) for weight in weights],
            fused=True,
            foreach=False,
            grad_scale=getattr(optimizer, "grad_scale", None),
            found_inf=getattr(optimizer, "found_inf", None),
            **{name: group[name] for name in _SGD_SETTINGS},
        )


class ShardedState:
    """Gathers and deals out the state of a sharded network and its optimizer, as the trainer asks for it.

    Args:
        ranks: inside `open_ranks`.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def gather(self, network: nn.Module, optimizer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the whole state of both on rank 0, on the CPU; every rank must call it."""
        return gather_weights(network, self._ranks), gather_optimizer(optimizer, self._ranks)

    def spread(
        self, network: nn.Module, optimizer: Any, weights: dict[str, Any], optimizer_state: dict[str, Any]
    ) -> None:
        """Load the whole state into both; every rank must call it, and rank 0's counts.

        Raises:
            ModelError: it does not fit the network; on all ranks.
        """
        load_weights(network, weights, self._ranks)
        load_optimizer(optimizer, optimizer_state, self._ranks)


def gather_weights(network: nn.Module, ranks: Ranks) -> dict[str, torch.Tensor]:
    """Gather the whole state dict on the CPU of rank 0; the other ranks take part and get an empty one."""
    return _gather(network.state_dict(), ranks)


def gather_optimizer(optimizer: torch.optim.Optimizer, ranks: Ranks) -> dict[str, Any]:
    """Gather an optimizer's whole state on the CPU of rank 0, as `optimizer.state_dict()` of one process has it.

    The other ranks take part and get no state.
    """
    known = optimizer.state_dict()
    state = {index: _gather(values, ranks) for index, values in known["state"].items()}
    return {"state": state if ranks.is_main else {}, "param_groups": known["param_groups"]}


def load_weights(network: nn.Module, weights: Mapping[str, torch.Tensor] | None, ranks: Ranks) -> None:
    """Deal out a whole state dict that rank 0 has read; the others pass None.

    Raises:
        ModelError: it does not fit the network; on all ranks.
    """
    _load(network.state_dict(), weights, ranks, what="network")


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any] | None, ranks: Ranks) -> None:
    """Deal out the state of `gather_optimizer` that rank 0 has read; the others pass None.

    The optimizer must have made its buffers (`build_optimizer` does). Hyperparameters come along.

    Raises:
        ModelError: it does not fit the network; on all ranks.
    """
    known = optimizer.state_dict()["state"]
    for index in sorted(known):
        stored = None if state is None else state["state"].get(index, {})
        _load(known[index], stored, ranks, what=f"optimizer's parameter {index}")
    groups = share_from_main(None if state is None else state["param_groups"])
    for group, stored in zip(optimizer.param_groups, groups or [], strict=True):
        group.update({name: value for name, value in stored.items() if name != "params"})


@torch.no_grad()
def _own_part(tensor: torch.Tensor) -> torch.Tensor:
    part = tensor.detach()
    return part.to_local() if isinstance(part, DTensor) else part


def _gather(values: Mapping[str, Any], ranks: Ranks) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for name, value in values.items():
        # Gathering is a joint act: all ranks do it for every tensor, one at a time.
        value = value.full_tensor() if isinstance(value, DTensor) else value  # noqa: PLW2901
        if ranks.is_main:
            whole[name] = value.detach().cpu() if isinstance(value, torch.Tensor) else value
    return whole


def _load(targets: Mapping[str, Any], sources: Mapping[str, Any] | None, ranks: Ranks, *, what: str) -> None:
    tensors = {name: value for name, value in targets.items() if isinstance(value, torch.Tensor)}
    problem = share_from_main(_find_misfit(tensors, sources or {}) if ranks.is_main else "")
    if problem:
        raise ModelError(f"checkpoint does not fit the {what}: {problem}", hint="train another plan with --plan NAME")
    for name, target in tensors.items():
        source = None if sources is None else sources.get(name)
        if not isinstance(source, DTensor):
            # Only what rank 0 passes counts: it sends every rank its part.
            whole = source if source is not None and ranks.is_main else torch.empty(target.shape)
            source = _deal_out(whole.to(device=target.device, dtype=target.dtype), target)
        with torch.no_grad():
            target.copy_(source)


def _deal_out(whole: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if isinstance(target, DTensor):
        return distribute_tensor(whole, target.device_mesh, target.placements)
    distributed.broadcast(whole, src=0)
    return whole


def _find_misfit(targets: Mapping[str, torch.Tensor], sources: Mapping[str, Any]) -> str:
    for name, target in targets.items():
        if name not in sources:
            return f"'{name}' is missing"
        if tuple(sources[name].shape) != tuple(target.shape):
            return f"'{name}' has shape {tuple(sources[name].shape)}, expected {tuple(target.shape)}"
    unknown = sorted(set(sources) - set(targets))
    return f"'{unknown[0]}' is unknown" if unknown else ""
