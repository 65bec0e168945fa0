"""nnU-Net's training loss: Dice and cross-entropy over all levels of deep supervision, exact over parts of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stu_pipeline.training.loss.labels import LabelLoss
from stu_pipeline.training.loss.level import LevelLoss, LevelSlopes, LevelSums, choose_dtype
from stu_pipeline.training.loss.parts import BatchCounts, DiceSums, WholeBatch, find_whole
from stu_pipeline.training.loss.regions import RegionLoss
from stu_pipeline.training.loss.score import Rule, score_levels

Levels = Tensor | Sequence[Tensor]
"""One tensor, or one per level, the highest resolution first."""


class SegmentationLoss:
    """Dice and cross-entropy of nnU-Net.

    Outputs are logits `(b, label, *spatial)`; any float type, computed in float32 at least. Targets are
    `(b, 1, *spatial)` labels, or `(b, region, *spatial)` booleans with a channel for ignored voxels at the end if
    there are any. Both are one tensor or one per level. Nothing here waits for the device.

    Where labels are marked in some samples only, `marked` says which, `(b, label)` with the background or
    `(b, region)`: the others do not enter the loss of a sample, as if the network did not have these outputs.

    Args:
        level: what labels and regions do differently.
        batch_dice: Dice over all samples of the batch, instead of the mean of every sample's.
        level_weights: one per level; levels of weight 0 are skipped.

    Raises:
        ValueError: no level has a weight.
    """

    def __init__(self, level: LevelLoss, *, batch_dice: bool, level_weights: Sequence[float]) -> None:
        if not any(level_weights):
            raise ValueError(f"no level has a weight, got {list(level_weights)}")
        self.level_weights = tuple(float(weight) for weight in level_weights)
        self._level = level
        self._used = [index for index, weight in enumerate(self.level_weights) if weight != 0]
        self._rule = Rule(
            level_weights=tuple(self.level_weights[index] for index in self._used),
            batch_dice=batch_dice,
            first_label=1 if isinstance(level, LabelLoss) else 0,
        )

    @property
    def needs_dice_sums(self) -> bool:
        """Whether a part cannot be scored before the Dice sums of the whole batch are known."""
        return self._rule.batch_dice

    def count(self, targets: Levels, *, marked: Tensor | None = None) -> BatchCounts:
        """Count what the means of a part divide by."""
        used = self._choose_levels(targets)
        return _count(used[0].shape[0], [self._level.count_terms(target, marked) for target in used], marked)

    @torch.no_grad()
    def sum_dice(self, outputs: Levels, targets: Levels, *, marked: Tensor | None = None) -> DiceSums:
        """Sum what batch Dice is made of over a part, without gradient.

        Raises:
            ValueError: outputs and targets do not fit together.
        """
        return _add_samples(self._sum_levels(*self._pair(outputs, targets, marked), marked))

    def __call__(
        self, outputs: Levels, targets: Levels, whole: WholeBatch | None = None, *, marked: Tensor | None = None
    ) -> Tensor:
        """Return the share of a part in the loss of its batch, `()`, float32; the shares add up to the loss.

        The gradients add up too: where ranks average them, multiply the loss by the number of ranks. Without `whole`
        the part is the batch.

        Raises:
            ValueError: outputs and targets do not fit together, or batch Dice lacks the sums of the whole batch.
        """
        used_outputs, used_targets = self._pair(outputs, targets, marked)
        loss: Tensor = _Function.apply(self, used_targets, marked, whole or WholeBatch(), *used_outputs)  # type: ignore[no-untyped-call]
        return loss

    def _score(
        self, outputs: Sequence[Tensor], targets: Sequence[Tensor], marked: Tensor | None, whole: WholeBatch
    ) -> tuple[Tensor, list[LevelSlopes]]:
        sums = self._sum_levels(outputs, targets, marked)
        own = _count(outputs[0].shape[0], [level.terms for level in sums], marked)
        counts, dice = find_whole(own, _add_samples(sums) if self._rule.batch_dice else None, whole)
        return score_levels(self._rule, sums, counts, dice, marked=marked, is_dice_per_part=whole.is_dice_per_part)

    def _sum_levels(
        self, outputs: Sequence[Tensor], targets: Sequence[Tensor], marked: Tensor | None
    ) -> list[LevelSums]:
        pairs = zip(outputs, targets, strict=True)
        return [self._level.sum_voxels(output, target, marked) for output, target in pairs]

    def _pair(self, outputs: Levels, targets: Levels, marked: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        pair = self._choose_levels(outputs), self._choose_levels(targets)
        for index, output, target in zip(self._used, *pair, strict=True):
            problem = self._level.check_shapes(output, target)
            if problem is not None:
                raise ValueError(f"level {index}: {problem}")
            if marked is not None and marked.shape != output.shape[:2]:
                raise ValueError(f"marked must be {tuple(output.shape[:2])}, got {tuple(marked.shape)}")
        return pair

    def _choose_levels(self, levels: Levels) -> list[Tensor]:
        known = [levels] if isinstance(levels, Tensor) else levels
        if len(known) != len(self.level_weights):
            raise ValueError(f"loss has {len(self.level_weights)} levels, got {len(known)}")
        return [known[index] for index in self._used]


def build_loss(
    *, regions: bool, batch_dice: bool, ignore_label: int | None = None, num_levels: int | None = None
) -> SegmentationLoss:
    """Build the loss nnU-Net trains with.

    Args:
        regions: targets are overlapping regions, not labels.
        batch_dice: Dice over all samples of the batch, as the plan says.
        ignore_label: the label that is not trained on; with regions it only says that there is one.
        num_levels: levels of deep supervision, weighted 1, 1/2, 1/4... and 0 for the last; None: a single output.
    """
    level: LevelLoss = RegionLoss(ignore_label is not None) if regions else LabelLoss(ignore_label)
    return SegmentationLoss(level, batch_dice=batch_dice, level_weights=choose_level_weights(num_levels))


def choose_level_weights(num_levels: int | None) -> tuple[float, ...]:
    """Return nnU-Net's weights of deep supervision, which add up to 1; the last level has none unless it is alone."""
    if num_levels is None or num_levels == 1:
        return (1.0,)
    weights = [0.5**index for index in range(num_levels - 1)]
    return (*(weight / sum(weights) for weight in weights), 0.0)


def _count(num_samples: int, terms: Sequence[Tensor], marked: Tensor | None) -> BatchCounts:
    stacked = torch.stack(list(terms))
    marking = stacked.new_zeros(0) if marked is None else marked.sum(0, dtype=stacked.dtype)
    return BatchCounts(stacked.new_full((), num_samples), stacked, marking)


def _add_samples(sums: Sequence[LevelSums]) -> DiceSums:
    return DiceSums(torch.stack([level.dice for level in sums]).sum(2))


class _Function(torch.autograd.Function):
    """Keeps no probabilities: the network's outputs live on anyway, and a softmax is cheaper than its memory."""

    @staticmethod
    def forward(
        ctx: Any,
        loss: SegmentationLoss,
        targets: list[Tensor],
        marked: Tensor | None,
        whole: WholeBatch,
        *outputs: Tensor,
    ) -> Tensor:
        value, slopes = loss._score(outputs, targets, marked, whole)
        ctx.level = loss._level
        typed = [
            (slope.intersection.to(dtype), slope.prediction.to(dtype), slope.entropy.to(dtype))
            for slope, dtype in zip(slopes, map(choose_dtype, outputs), strict=True)
        ]
        ctx.save_for_backward(marked, *outputs, *targets, *(tensor for slope in typed for tensor in slope))
        return value.to(choose_dtype(outputs[0]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        marked, *saved = ctx.saved_tensors
        num_levels = len(saved) // 5
        outputs, targets, flat_slopes = saved[:num_levels], saved[num_levels : 2 * num_levels], saved[2 * num_levels :]
        gradients: list[Tensor | None] = []
        needs = ctx.needs_input_grad[-num_levels:]
        for index, (output, target, is_needed) in enumerate(zip(outputs, targets, needs, strict=True)):
            slopes = LevelSlopes(*flat_slopes[3 * index : 3 * index + 3]).scale_by(scale)
            gradients.append(ctx.level.make_gradient(output, target, slopes, marked) if is_needed else None)
        return (None, None, None, None, *gradients)
