"""What the parts of a batch (micro-batches, ranks) tell each other, so that their losses add up to the batch's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Returns the sum of a tensor over all ranks; it may write into the tensor."""


@dataclass(frozen=True, slots=True, eq=False)
class BatchCounts:
    """What the means of a loss divide by. Adds up over parts; stays on the device."""

    samples: Tensor
    """`()`"""
    terms: Tensor
    """`(level,)`: what the mean of the cross-entropy divides by, of every level that counts."""
    marking: Tensor
    """`(label,)`: samples in which a label is marked; `(0,)` where all labels are marked in all of them."""

    def __add__(self, other: BatchCounts) -> BatchCounts:
        """Return the counts of both parts together."""
        return BatchCounts(self.samples + other.samples, self.terms + other.terms, self.marking + other.marking)

    def sum_over_ranks(self, reduce: Reduce) -> BatchCounts:
        """Return the counts of all ranks together, in one call of `reduce`."""
        return BatchCounts(*_reduce_at_once([self.samples, self.terms, self.marking], reduce))


@dataclass(frozen=True, slots=True, eq=False)
class DiceSums:
    """The sums that batch Dice is made of. Adds up over parts; stays on the device."""

    values: Tensor
    """`(level, 3, label)`: intersection, prediction and reference, over all samples and voxels not ignored."""

    def __add__(self, other: DiceSums) -> DiceSums:
        """Return the sums of both parts together."""
        return DiceSums(self.values + other.values)

    def sum_over_ranks(self, reduce: Reduce) -> DiceSums:
        """Return the sums of all ranks together."""
        return DiceSums(reduce(self.values.clone()))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class WholeBatch:
    """The batch that a part belongs to. What is None here is taken from the part itself, summed by `reduce`."""

    counts: BatchCounts | None = None
    dice: DiceSums | None = None
    """Needed with batch Dice only."""
    reduce: Reduce | None = None
    """For ranks that hold one part each: sums over ranks inside the loss, so no second pass is needed."""
    is_dice_per_part: bool = False
    """Batch Dice over this part alone: what a plan calls the scope `micro-batch`. Not nnU-Net's loss."""


def find_whole(counts: BatchCounts, dice: DiceSums | None, whole: WholeBatch) -> tuple[BatchCounts, DiceSums | None]:
    """Return counts and Dice sums of the whole batch.

    `counts` and `dice` are the part's own; `dice` is None without batch Dice. `reduce` is called at most once.

    Raises:
        ValueError: the batch is in parts, and its Dice sums are not known.
    """
    if dice is not None and whole.is_dice_per_part:
        return find_whole(counts, None, whole)[0], dice
    missing = [] if whole.counts else [counts.samples, counts.terms, counts.marking]
    if dice is not None and whole.dice is None:
        if whole.reduce is None and whole.counts is not None:
            raise ValueError("batch Dice of a batch in parts needs the Dice sums of the whole batch")
        missing.append(dice.values)
    if whole.reduce is not None and missing:
        missing = _reduce_at_once(missing, whole.reduce)
    known = whole.counts or BatchCounts(*missing[:3])
    if dice is None:
        return known, None
    return known, whole.dice or DiceSums(missing[-1])


def _reduce_at_once(tensors: list[Tensor], reduce: Reduce) -> list[Tensor]:
    total = reduce(torch.cat([tensor.flatten() for tensor in tensors]))
    pieces = torch.split(total, [tensor.numel() for tensor in tensors])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]
