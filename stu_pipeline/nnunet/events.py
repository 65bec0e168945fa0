"""What a training tells while it runs. No torch here: the command line reads these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochDone:
    """One epoch is finished.

    `dice` is nnU-Net's pseudo Dice of the random validation patches, per label or region name; it is
    an optimistic stand-in for the real validation at the end. `data_wait` is the share of the epoch
    in which the step waited for data.
    """

    epoch: int
    num_epochs: int
    train_loss: float
    val_loss: float
    dice: dict[str, float | None]
    mean_dice: float | None
    ema_dice: float | None
    learning_rate: float
    elapsed_s: float
    data_wait: float
    is_best: bool
    num_skipped_steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointWritten:
    """A checkpoint is durable under its final name."""

    kind: str
    epoch: int
    size_mib: float
    elapsed_s: float
