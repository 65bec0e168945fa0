"""A training of a tiny STU-Net on random numbers, in one process or shared by ranks."""

from __future__ import annotations

import copy

import torch

from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.training.parallel import sharding, wrap
from stu_pipeline.training.parallel.shares import list_slots

NUM_STEPS = 3
BATCH = 4
LEVEL_WEIGHTS = (0.5, 0.25, 0.15, 0.1, 0.0)


def build_network(seed=0, *, checkpointing=False):
    torch.manual_seed(seed)
    network = STUNet(
        1, 3, [[1, 1], *[[2, 2]] * 4, [1, 1]], [4, 4, 8, 8, 8, 8], [1, 1, 1, 1, 2, 1], "2d", deep_supervision=True
    )
    network.apply(network.initialize)
    network.set_activation_checkpointing(checkpointing)
    return network


def build_optimizer(network):
    optimizer = torch.optim.SGD(network.parameters(), 0.05, weight_decay=3e-5, momentum=0.99, nesterov=True, fused=True)
    for weight in optimizer.param_groups[0]["params"]:
        optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer


def make_batch(step):
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(BATCH, 1, 32, 32, generator=generator)


def loss_of(outputs):
    """A loss that is a sum over samples, divided by the number of samples of the whole batch."""
    total = torch.zeros(())
    for weight, level in zip(LEVEL_WEIGHTS, outputs, strict=True):
        if weight:
            total = total + weight * ((level - 1) ** 2).mean(dim=(1, 2, 3)).sum() / BATCH
    return total


def train_alone(**options):
    network = build_network(**options)
    optimizer = build_optimizer(network)
    gradients = {}
    for step in range(NUM_STEPS):
        optimizer.zero_grad(set_to_none=True)
        loss_of(network(make_batch(step))).backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
        optimizer.step()
    found = {"weights": network.state_dict(), "optimizer": optimizer.state_dict(), "gradients": gradients}
    return to_numpy(found | {"norm": float(norm)})


def to_numpy(value):
    """Return results without tensors: they could not leave their process."""
    if isinstance(value, torch.Tensor):
        return value.detach().numpy()
    if isinstance(value, dict):
        return {key: to_numpy(item) for key, item in value.items()}
    return value


def train_shares(ranks, device, *, how, checkpointing=False, micro_batch=1):
    """Train this rank's slots and return what rank 0 gathers, as `train_alone` does."""
    # Each rank begins elsewhere: only rank 0's weights may count.
    network = build_network(seed=ranks.rank, checkpointing=checkpointing)
    idle = wrap.find_idle_parameters(network, LEVEL_WEIGHTS)
    if how == "sharded":
        whole = copy.deepcopy(network.state_dict()) if ranks.is_main else None
        wrapped = sharding.shard_network(network, ranks, device, idle=idle)
        sharding.load_weights(wrapped, whole, ranks)
    else:
        wrapped = wrap.wrap_network(network, ranks, device, idle=idle)
    optimizer = build_optimizer(wrapped)
    for step in range(NUM_STEPS):
        norm = train_step(wrapped, optimizer, make_batch(step), ranks, micro_batch)
    gathered = gather(network, optimizer, ranks, how) | {"norm": float(norm), "idle": idle}
    if how == "sharded":
        gathered["shares"] = [sum(p.to_local().numel() for p in network.parameters()), ranks.world_size]
        gathered["reloaded"] = reload(gathered, ranks, device, idle)
    else:
        gathered["gradients"] = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return to_numpy(gathered)


def train_step(wrapped, optimizer, batch, ranks, micro_batch):
    optimizer.zero_grad(set_to_none=True)
    own = batch[list(list_slots(BATCH, ranks.rank, ranks.world_size))]
    parts = own.split(micro_batch)
    for part in parts[:-1]:
        with wrap.skip_gradient_exchange(wrapped):
            (loss_of(wrapped(part)) * ranks.world_size).backward()
    (loss_of(wrapped(parts[-1])) * ranks.world_size).backward()
    norm = torch.nn.utils.clip_grad_norm_(wrapped.parameters(), 0.1)
    sharding.move_weights(optimizer) if sharding.is_sharded(wrapped) else optimizer.step()
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def gather(network, optimizer, ranks, how):
    if how == "sharded":
        weights, state = sharding.ShardedState(ranks).gather(network, optimizer)
        return {"weights": weights, "optimizer": state}
    return {"weights": network.state_dict(), "optimizer": optimizer.state_dict()}


def reload(gathered, ranks, device, idle):
    """Deal the gathered state out to another sharded network, and gather it again."""
    network = sharding.shard_network(build_network(seed=5), ranks, device, idle=idle)
    optimizer = build_optimizer(network)
    if ranks.is_main:
        weights, state = gathered["weights"], gathered["optimizer"]
    else:
        weights, state = {}, {"state": {}, "param_groups": []}
    sharding.ShardedState(ranks).spread(network, optimizer, weights, state)
    return gather(network, optimizer, ranks, "sharded")
