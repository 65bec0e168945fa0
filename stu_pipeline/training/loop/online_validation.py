"""Score random validation patches after an epoch: nnU-Net's pseudo Dice and the validation loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stu_pipeline.training.loop.batch import Batch
from stu_pipeline.training.loop.online_scores import count_matches
from stu_pipeline.training.loop.step import TrainingStep
from stu_pipeline.training.parallel.reduce import sum_over_ranks


@dataclass(frozen=True, slots=True, eq=False)
class PatchScores:
    """What the patches of one epoch came to."""

    loss: float
    counts: NDArray[np.float64]
    """`(3, label)`: true positives, false positives, false negatives."""

    @property
    def mean_dice(self) -> float | None:
        """Mean over the labels that occur; None where none does."""
        positives, false_positives, false_negatives = self.counts
        total = 2 * positives + false_positives + false_negatives
        found = total > 0
        return float((2 * positives[found] / total[found]).mean()) if found.any() else None


@torch.no_grad()
def score_patches(
    step: TrainingStep,
    networks: Sequence[nn.Module],
    batches: Iterable[Batch],
    *,
    regions: bool,
    ignore_label: int | None,
    between: Callable[[torch.device], None],
) -> list[PatchScores]:
    """Score each network on the same batches. The device is read once, at the end.

    Args:
        step: knows precision, parts and loss.
        networks: in any mode; they are left in training mode.
        batches: of this rank; at least one.
        regions: whether outputs are regions instead of labels.
        ignore_label: its voxels count nowhere.
        between: called after every batch; whatever it raises ends the scoring.
    """
    sums: list[tuple[torch.Tensor, torch.Tensor]] = []
    num_batches = 0
    for network in networks:
        network.eval()
    try:
        for batch in batches:
            scored = [_score(step, network, batch, regions, ignore_label) for network in networks]
            sums = [(a + c, b + d) for (a, b), (c, d) in zip(sums, scored, strict=True)] if sums else scored
            num_batches += 1
            between(batch.data.device)
    finally:
        for network in networks:
            network.train()
    together = [(sum_over_ranks(loss), sum_over_ranks(counts)) for loss, counts in sums]
    return [PatchScores(float(loss) / num_batches, counts.cpu().numpy()) for loss, counts in together]


def _score(
    step: TrainingStep, network: nn.Module, batch: Batch, regions: bool, ignore_label: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    parts_logits, loss = step.score(network, batch)
    counts = [
        count_matches(
            logits, part.targets[0], regions=regions, ignore_label=ignore_label, marked=step.find_marked(part)
        )
        for logits, part in zip(parts_logits, batch.split(step.micro_batch), strict=True)
    ]
    return loss, torch.stack(counts).sum(0)
