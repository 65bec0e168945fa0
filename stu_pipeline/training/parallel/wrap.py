"""Wrap a network so that ranks train it together (DDP), and leave out what gets no gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stu_pipeline.training.parallel.ranks import Ranks


def wrap_network(network: nn.Module, ranks: Ranks, device: torch.device, *, idle: Collection[str] = ()) -> nn.Module:
    """Wrap a network on its device for training on several ranks; for one process it is returned as it is.

    All ranks get the weights of rank 0. The gradients are the MEAN over the ranks: where the loss of a batch is the
    sum of what each rank computes of it, multiply the local loss by the number of ranks before `backward`.
    Every rank must run one backward pass per step outside `skip_gradient_exchange`. `torch.compile` goes around
    the wrapped network or inside it.

    Args:
        network: on `device`; its parameter objects stay the same, so an optimizer may be built before or after.
        ranks: inside `open_ranks`.
        device: as `open_ranks` yields it.
        idle: names of parameters that get no gradient (`find_idle_parameters`). They are frozen, as DDP would wait
            for them; an optimizer leaves them alone with or without that.
    """
    if ranks.is_alone:
        return network
    freeze(network, idle)
    return DistributedDataParallel(
        network,
        device_ids=[device.index] if device.type == "cuda" else None,
        # The networks have no running statistics; what buffers there are never change.
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )


def find_idle_parameters(network: nn.Module, level_weights: Sequence[float] | None) -> list[str]:
    """Find the heads whose output is not part of the loss, in STU-Net and in nnU-Net's own networks.

    Args:
        network: with its heads in `decoder.seg_layers`, coarsest first; without them nothing is idle.
        level_weights: weight of each level in the loss, full resolution first; levels beyond count as 0. None
            without deep supervision: the full resolution alone.

    Returns:
        Parameter names, in the network's order.
    """
    heads = getattr(getattr(unwrap_network(network), "decoder", None), "seg_layers", None)
    if heads is None:
        return []
    weights = [1.0] if level_weights is None else list(level_weights)
    weights += [0.0] * (len(heads) - len(weights))
    # Heads are numbered from the coarsest, weights from the finest.
    idle = {index for index in range(len(heads)) if weights[len(heads) - 1 - index] == 0}
    owned = {id(parameter) for index in idle for parameter in heads[index].parameters()}
    return [name for name, parameter in unwrap_network(network).named_parameters() if id(parameter) in owned]


def freeze(network: nn.Module, names: Collection[str]) -> None:
    """Take parameters out of the training.

    Raises:
        KeyError: the network has no parameter of that name.
    """
    # A compiled network calls them by other names.
    parameters = dict(unwrap_network(network).named_parameters())
    for name in names:
        parameters[name].requires_grad_(False)


def skip_gradient_exchange(network: nn.Module) -> AbstractContextManager[None]:
    """Return a block in which backward passes add to the local gradients only, for all parts of a batch but the last.

    The forward pass belongs into the block too. Nothing happens for a network that is not wrapped.
    """
    wrapped = _uncompile(network)
    if isinstance(wrapped, DistributedDataParallel):
        skipping: AbstractContextManager[None] = wrapped.no_sync()
        return skipping
    # Not asked by its class: importing that takes most of a second, and few trainings are sharded.
    return _pause_sharded(wrapped) if hasattr(wrapped, "set_requires_gradient_sync") else nullcontext()


def unwrap_network(network: nn.Module) -> nn.Module:
    """Return the bare network of a wrapped or compiled one; a sharded one is its own."""
    bare = _uncompile(network)
    if isinstance(bare, DistributedDataParallel):
        bare = _uncompile(bare.module)
    return bare


@contextlib.contextmanager
def _pause_sharded(network: Any) -> Iterator[None]:
    network.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        network.set_requires_gradient_sync(True)


def _uncompile(network: nn.Module) -> nn.Module:
    # torch.compile keeps the module it was given under this name.
    original = getattr(network, "_orig_mod", network)
    return original if isinstance(original, nn.Module) else network
