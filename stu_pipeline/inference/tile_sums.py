"""The sums of what networks say of a few tiles, and the mean of them at any stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stu_pipeline.inference.stages import Stage, StagePlan


class TileSums:
    """Weighted sums of logits per tile, float32 `(tiles, outputs, *patch)`, one per slot of the plan.

    Args:
        plan: of the stages.
        shape: `(tiles, outputs, *patch)`.
        device: where outputs come from.
    """

    def __init__(self, plan: StagePlan, shape: Sequence[int], device: torch.device) -> None:
        self._plan = plan
        self._shape = tuple(shape)
        self._device = device
        self._sums: dict[int, torch.Tensor] = {}
        self._copies: list[dict[int, int]] = [{} for _ in range(shape[0])]

    def add(self, slot: int, tiles: Sequence[int], outputs: torch.Tensor, factor: float) -> None:
        """Add `outputs * factor`, one row per tile; `tiles` are ascending."""
        if slot not in self._sums:
            self._sums[slot] = torch.zeros(self._shape, device=self._device)
        sums = self._sums[slot]
        if len(tiles) == tiles[-1] - tiles[0] + 1:
            sums[tiles[0] : tiles[-1] + 1].add_(outputs, alpha=factor)
            return
        for tile, output in zip(tiles, outputs, strict=True):
            sums[tile].add_(output, alpha=factor)

    def close(self, stage: Stage, tiles: Sequence[int]) -> None:
        """Note that a stage has added everything to these tiles."""
        for tile in tiles:
            self._copies[tile] |= stage.copies

    def mean(self, tile: int) -> tuple[torch.Tensor, float]:
        """Return the mean of a tile as `(outputs, *patch)` and a factor to multiply it by.

        The tensor is one of the sums where there is one: it must not be changed.
        """
        copies = self._copies[tile]
        weight = sum(self._plan.slot_weights[slot] for slot in copies)
        if len(copies) == 1:
            ((slot, count),) = copies.items()
            return self._sums[slot][tile], 1 / (weight * count)
        total = torch.zeros(self._shape[1:], device=self._device)
        for slot, count in copies.items():
            total.add_(self._sums[slot][tile], alpha=1 / (weight * count))
        return total, 1.0

    def read_mean(self, tile: int) -> torch.Tensor:
        """Return the mean of a tile, `(outputs, *patch)`."""
        logits, factor = self.mean(tile)
        return logits * factor
