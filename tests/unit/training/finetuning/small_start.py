"""A tiny STU-Net that begins with given weights: what the tests of fine-tuning share."""

from __future__ import annotations

import torch

from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.nnunet.optimizer import build_optimizer
from stu_pipeline.training.finetuning.groups import plan_tuning
from stu_pipeline.training.finetuning.recipes import RECIPES
from stu_pipeline.training.finetuning.starting_weights import copy_weights
from stu_pipeline.training.finetuning.steering import Steering

WEIGHT_DECAY = 3e-5
NUM_STEPS = 5
"""Of an epoch."""
NUM_EPOCHS = 4


def build_network(seed=0, *, num_classes=4):
    torch.manual_seed(seed)
    network = STUNet(1, num_classes, [[1, 1], *[[2, 2]] * 2, [1, 1], [1, 1], [1, 1]], [4, 4, 8, 8, 8, 8], 1, "2d", True)
    network.apply(network.initialize)
    return network


def list_origins(network, **changes):
    """Return origins as they are for a dataset with other labels: heads start anew. `changes` go by prefix."""
    origins = {}
    for name, _ in network.named_parameters():
        origin = "initialised" if name.startswith("decoder.") else "loaded"
        origins[name] = next((value for prefix, value in changes.items() if name.startswith(prefix)), origin)
    return origins


def plan(network, recipe, *, kept=(), **changes):
    changes = {"decoder.seg_layers": "adapted", **changes} if kept else changes
    rows = {name: kept for name, _ in network.named_parameters() if name.startswith("decoder.")}
    return plan_tuning(
        RECIPES[recipe],
        list_origins(network, **changes),
        num_epochs=NUM_EPOCHS,
        weight_decay=WEIGHT_DECAY,
        kept_rows=rows,
    )


class SmallRun:
    """Steps of a steered training on random numbers, as the loop and the step take them."""

    def __init__(self, recipe, *, seed=0, kept=(), state=None, start=None):
        self.network = build_network(seed)
        self.tuning = plan(self.network, recipe, kept=kept)
        self.optimizer = build_optimizer(
            self.network,
            learning_rate=0.05,
            weight_decay=WEIGHT_DECAY,
            groups=self.tuning.list_optimizer_groups(WEIGHT_DECAY),
        )
        names = [name for group in self.tuning.groups if group.start_pull for name in group.parameters]
        self.start = copy_weights(self.network, names) if start is None else start
        if state is not None:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
        self.steering = Steering(self.network, self.tuning, self.start, weight_decay=WEIGHT_DECAY)

    def train(self, first, last):
        for index in range(first, last):
            self.optimizer.zero_grad(set_to_none=True)
            data = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(index))
            sum((level - 1).square().mean() for level in self.network(data)[:4]).backward()
            epoch, step = divmod(index, NUM_STEPS)
            self.steering.begin_step(self.optimizer, 0.05, epoch=epoch, step=step, num_steps=NUM_STEPS)
            self.steering.adjust_gradients()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12.0)
            self.optimizer.step()
        return self

    @property
    def weights(self):
        return {name: weight.detach().clone() for name, weight in self.network.named_parameters()}

    def momentum(self, name):
        weight = dict(self.network.named_parameters())[name]
        return self.optimizer.state[weight]["momentum_buffer"]
