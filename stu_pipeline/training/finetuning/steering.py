"""Let each group of weights move as its recipe says: learning rates, rest, and the pull to where they began."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from stu_pipeline.training.finetuning.groups import Tuning
from stu_pipeline.training.loop.schedule import is_resting


class Steering:
    """Steers the steps of a training with parameter groups.

    Args:
        network: the bare network; its parameters are those of the optimizer.
        tuning: the groups.
        starting_weights: by name, what pulled weights are pulled to, on the network's device; nothing else is read.
        weight_decay: of new outputs in heads whose other outputs are pulled.
    """

    def __init__(
        self,
        network: nn.Module,
        tuning: Tuning,
        starting_weights: Mapping[str, torch.Tensor],
        *,
        weight_decay: float,
    ) -> None:
        self._tuning = tuning
        self._weight_decay = weight_decay
        parameters = dict(network.named_parameters())
        self._frozen = [parameters[name] for name in tuning.frozen]
        rows = tuning.kept_rows or {}
        self._pulled = [
            (parameters[name], starting_weights[name], group.start_pull)
            for group in tuning.groups
            if group.start_pull
            for name in group.parameters
            if name not in rows
        ]
        pulls = {name: group.start_pull for group in tuning.groups for name in group.parameters}
        self._heads = [
            _KeptOutputs(parameters[name], starting_weights[name], kept, pull=pulls[name])
            for name, kept in rows.items()
        ]
        self._is_resting = bool(tuning.frozen)

    def begin_step(
        self, optimizer: torch.optim.Optimizer, rate: float, *, epoch: int, step: int, num_steps: int
    ) -> None:
        """Give each group its learning rate.

        Args:
            optimizer: built with the groups of the tuning.
            rate: of a group with factor 1.
            epoch: from 0.
            step: from 0, within the epoch.
            num_steps: of an epoch.
        """
        for group, wanted in zip(optimizer.param_groups, self._tuning.groups, strict=True):
            group["lr"] = rate * wanted.rate_factor
        self._is_resting = is_resting(epoch, step, num_iterations=num_steps, rest_epochs=self._tuning.frozen_epochs)

    @torch.no_grad()
    def adjust_gradients(self) -> None:
        """Change complete gradients before they are clipped: weights that rest lose theirs, pulled ones get the pull.

        A weight without a gradient neither moves nor gathers momentum, and is not decayed.
        """
        if self._is_resting:
            for weight in self._frozen:
                weight.grad = None
        for weight, start, pull in self._pulled:
            if weight.grad is not None:
                weight.grad.add_(weight - start, alpha=pull)
        for head in self._heads:
            head.adjust(self._tuning.kept_factor, self._weight_decay)


class _KeptOutputs:
    """A head of which some outputs were kept: they are pulled and move slowly, the others are decayed and do not."""

    def __init__(self, weight: nn.Parameter, start: torch.Tensor, kept: tuple[int, ...], *, pull: float) -> None:
        self._weight = weight
        self._start = start
        self._pull = pull
        is_kept = torch.zeros(weight.shape[0], dtype=torch.bool, device=weight.device)
        is_kept[list(kept)] = True
        # One flag per output, beside the axes of the kernel.
        self._is_kept = is_kept.view(-1, *[1] * (weight.ndim - 1))

    def adjust(self, factor: float, weight_decay: float) -> None:
        weight, gradient = self._weight, self._weight.grad
        if gradient is None:
            return
        kept = (gradient + self._pull * (weight - self._start)) * factor
        new = gradient + weight_decay * weight
        gradient.copy_(torch.where(self._is_kept, kept, new))
