"""What a training tells while it runs. No torch here: the command line reads these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochDone:
    """One epoch is finished.

    `dice` is nnU-Net's pseudo Dice of the random validation patches, per label or region name; it is
    an optimistic stand-in for the real validation at the end. `data_wait` is the share of the epoch
    in which the step waited for data. What was not measured is None.
    """

    epoch: int
    """Counted from 0."""
    num_epochs: int
    train_loss: float
    val_loss: float
    dice: dict[str, float | None]
    mean_dice: float | None
    ema_dice: float | None
    """Moving average of `mean_dice` over the epochs."""
    learning_rate: float
    elapsed_s: float
    data_wait: float
    is_best: bool
    num_skipped_steps: int = 0
    gpu_memory_gib: float | None = None
    """Peak of what PyTorch held on the device during the epoch; None without a GPU."""
    gpu_utilization: float | None = None
    """Share of the epoch in which the GPU was busy, 0 to 1; None where it cannot be read."""
    overhead: float | None = None
    """Share of the epoch that was neither a step nor waiting for data."""
    step_s: float | None = None
    """Mean seconds of a training step."""
    images_per_s: float | None = None
    """Training samples per second of training steps, all ranks together."""
    ema_weights_dice: float | None = None
    """Mean pseudo Dice of the averaged weights; None unless they are kept."""
    start: str = "scratch"
    """What the training began with: `scratch` or `pretrained`; `unknown` where stock nnU-Net began it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsDone:
    """Some steps of an epoch are done; sent every few seconds."""

    epoch: int
    """Counted from 0."""
    num_epochs: int
    step: int
    """Training steps of this epoch that are done."""
    num_steps: int
    loss: float | None
    """Of the latest steps that were read back; None before one was, or when none was finite."""
    step_s: float
    """Mean seconds of the training steps of this epoch; waiting for data is not part of them."""
    data_wait: float
    """Share of the epoch so far in which the step waited for data, 0 to 1."""
    eta_s: float | None
    """Seconds to the end of the training; None while nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointWritten:
    """A checkpoint is durable under its final name."""

    kind: str
    epoch: int
    size_mib: float
    elapsed_s: float
