"""What the trainer asks of a network whose weights are spread over several ranks."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn


class Sharding(Protocol):
    """Collects and spreads the state of network and optimizer. Every rank must call the same method."""

    def gather(self, network: nn.Module, optimizer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the whole state of both; only the first rank's is used."""

    def spread(
        self, network: nn.Module, optimizer: Any, weights: dict[str, Any], optimizer_state: dict[str, Any]
    ) -> None:
        """Load the whole state into both."""
