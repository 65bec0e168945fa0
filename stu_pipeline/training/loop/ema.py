"""A moving average of the weights, kept beside the weights that train."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn


class WeightAverage:
    """Follows a network with an exponential moving average.

    Args:
        network: the bare network, neither compiled nor wrapped.
        decay: share of the average that stays with every step, for example 0.999.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        # Young averages forget faster, so that the first weights, which are noise, do not linger.
        self._decay = decay
        self._num_updates = 0
        self.network = copy.deepcopy(network).requires_grad_(False)
        """The network with averaged weights."""

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after one step. Nothing waits for the device."""
        self._num_updates += 1
        decay = min(self._decay, (1 + self._num_updates) / (10 + self._num_updates))
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - decay)

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint keeps."""
        return {"num_updates": self._num_updates, "decay": self._decay, "weights": self.network.state_dict()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a checkpoint."""
        self._num_updates = int(state["num_updates"])  # type: ignore[call-overload]
        self.network.load_state_dict(state["weights"])  # type: ignore[arg-type]
