"""The unit everything between the window and the mask is passed in: a few finished planes of scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Slab:
    """Planes `start` to `stop` along the walk axis, all that will ever be known of them.

    Slabs of one case come in order, without gaps or overlaps, and cover its grid.
    """

    start: int
    axis: int
    """The walk axis, 0 to 2 for `(z, y, x)` after the plan's transposition."""
    scores: torch.Tensor
    """Float32 `(c, z, y, x)`; logits, or probabilities where a docstring says so."""

    @property
    def stop(self) -> int:
        """The first plane after the slab."""
        return self.start + self.scores.shape[1 + self.axis]
