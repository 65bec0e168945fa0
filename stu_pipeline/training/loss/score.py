"""From sums over voxels to the loss and its slopes, for all levels at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stu_pipeline.training.loss.level import LevelSlopes, LevelSums
from stu_pipeline.training.loss.parts import BatchCounts, DiceSums

# nnU-Net's. It also keeps the denominator off zero: a label that is absent and not predicted scores 1.
_SMOOTH = 1e-5


@dataclass(frozen=True, slots=True)
class Rule:
    """How sums become a loss."""

    level_weights: tuple[float, ...]
    """Of the levels that count; none is 0."""
    batch_dice: bool
    """Dice over all samples, instead of the mean of every sample's."""
    first_label: int
    """Labels before it have no Dice: 1 skips the background."""


def score_levels(
    rule: Rule,
    sums: Sequence[LevelSums],
    counts: BatchCounts,
    dice_sums: DiceSums | None,
    *,
    marked: Tensor | None = None,
    is_dice_per_part: bool = False,
) -> tuple[Tensor, list[LevelSlopes]]:
    """Return a part's share of the loss, `()`, and the slopes of the whole loss with respect to the part's sums.

    `counts` and `dice_sums` are the whole batch's; `dice_sums` is None without batch Dice. `marked`, `(b, label)`, is
    the part's own: its Dice is a mean over the labels marked in the sample, with batch Dice in any sample. The shares
    of all parts add up to the loss. A batch without any counted voxel has a cross-entropy of 0 and a Dice of 1.
    """
    dice = torch.stack([level.dice for level in sums])  # (level, 3, b, label)
    weights = _make_weights(rule, dice)
    num_scored = dice.shape[3] - rule.first_label
    entropy_slopes = weights / counts.terms.clamp_min(1)
    if dice_sums is not None:
        share = dice.shape[2] / counts.samples
        dice_share, slope_share = share, (share if is_dice_per_part else 1)
        whole = dice_sums.values.unsqueeze(2)
    else:
        dice_share = slope_share = 1 / counts.samples
        whole = dice
    intersection, denominator = whole[:, 0], whole[:, 1] + whole[:, 2] + _SMOOTH  # (level, b or 1, label)
    ratio = (2 * intersection + _SMOOTH) / denominator
    factor = (weights / num_scored).view(-1, 1, 1) * slope_share
    scored = ratio
    if marked is not None:
        emphasis = _emphasise(rule, marked, counts, is_dice_per_part=is_dice_per_part)
        factor, scored = factor * emphasis, ratio * emphasis
    mean = scored[..., rule.first_label :].sum((1, 2)) / num_scored
    entropy = torch.stack([level.entropy for level in sums])
    value = (entropy * entropy_slopes - weights * dice_share * mean).sum()
    slopes = torch.stack([-2 * factor / denominator, factor * ratio / denominator], 1)
    slopes[..., : rule.first_label] = 0
    slopes = slopes.expand(-1, -1, dice.shape[2], -1)
    return value, [LevelSlopes(level[0], level[1], slope) for level, slope in zip(slopes, entropy_slopes, strict=True)]


def _emphasise(rule: Rule, marked: Tensor, counts: BatchCounts, *, is_dice_per_part: bool) -> Tensor:
    """Return how much more each label counts in a mean over marked labels than in one over all, `(b or 1, label)`."""
    if rule.batch_dice:
        marked = marked.any(0, keepdim=True) if is_dice_per_part else counts.marking.unsqueeze(0) > 0
    flags = marked.to(counts.samples.dtype)
    scored = flags[:, rule.first_label :]
    # A sample without marked labels has no Dice at all.
    return flags * (scored.shape[1] / scored.sum(1, keepdim=True).clamp_min(1))


def _make_weights(rule: Rule, like: Tensor) -> Tensor:
    # One fill per level: copying a list to a GPU would wait for it.
    return torch.stack([like.new_full((), weight) for weight in rule.level_weights])
