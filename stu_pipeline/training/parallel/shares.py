"""Who does what: the slots of a batch and the cases of a validation, dealt out to the ranks. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from stu_pipeline.errors import UsageError

Item = TypeVar("Item")
WARMUP_SHARE = 0.05
"""Part of the epochs in which a scaled learning rate is reached. Goyal et al. 2017 (arXiv 1706.02677) warm up over 5
of 90 epochs; it scales along with `--epochs`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRule:
    """The batch of all ranks, and what it does to the learning rate. Recorded in `run.json`."""

    batch: int
    """Samples per optimizer step, all ranks together."""
    learning_rate_factor: float
    warmup_epochs: float
    sentence: str
    """The rule in one line, for the user."""


def choose_batch_rule(plan_batch: int, world_size: int, *, lr_given: bool, num_epochs: int) -> BatchRule:
    """Choose the batch of all ranks.

    Up to the plan's batch the ranks share it, and the training means the same as on one GPU. More ranks than that
    get one sample each: the batch grows, and the learning rate with it (linear scaling with warm-up, Goyal et al.
    2017), unless the user gave one.

    Args:
        plan_batch: the plan's (effective) batch.
        world_size: ranks, on all nodes.
        lr_given: whether the user chose the learning rate; then it is taken as it is, without a warm-up.
        num_epochs: of the whole training.

    >>> choose_batch_rule(2, 8, lr_given=False, num_epochs=1000).sentence
    'batch 8 instead of 2, one sample per rank; learning rate x4 after a warm-up of 50 epochs'
    """
    if world_size <= plan_batch:
        ranks = "1 rank" if world_size == 1 else f"{world_size} ranks"
        sentence = f"batch {plan_batch} as planned, shared by {ranks}"
        return BatchRule(batch=plan_batch, learning_rate_factor=1.0, warmup_epochs=0.0, sentence=sentence)
    grown = f"batch {world_size} instead of {plan_batch}, one sample per rank"
    if lr_given:
        return BatchRule(
            batch=world_size,
            learning_rate_factor=1.0,
            warmup_epochs=0.0,
            sentence=f"{grown}; learning rate as given",
        )
    factor, warmup = world_size / plan_batch, WARMUP_SHARE * num_epochs
    sentence = f"{grown}; learning rate x{factor:g} after a warm-up of {warmup:g} epochs"
    return BatchRule(batch=world_size, learning_rate_factor=factor, warmup_epochs=warmup, sentence=sentence)


def list_slots(batch: int, rank: int, world_size: int) -> range:
    """List the slots of a rank: of batch 5 and 2 ranks, rank 0 has slots 0, 2, 4 and rank 1 has 1, 3.

    Raises:
        ValueError: a rank would have none; `choose_batch_rule` prevents that.
    """
    if not 0 <= rank < world_size <= batch:
        raise ValueError(f"rank {rank} of {world_size} has no slot in a batch of {batch}")
    return range(rank, batch, world_size)


def take_share(items: Sequence[Item], rank: int, world_size: int) -> list[Item]:
    """Take every `world_size`-th item, beginning at the rank's own: cases of a validation. May be empty."""
    return list(items[rank::world_size])


def require_even_shares(batch: int, world_size: int) -> None:
    """Require ranks to run equally many samples, as sharded networks exchange weights in every forward pass.

    Raises:
        UsageError: the batch is no multiple of the number of ranks.
    """
    if batch % world_size:
        raise UsageError(
            f"a sharded network needs a batch that is a multiple of the ranks, got {batch} for {world_size} ranks",
            hint=f"--gpus {max(n for n in range(1, world_size + 1) if batch % n == 0)}",
        )
