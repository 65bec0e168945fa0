"""The hyperparameters of a training, as they are stored in its checkpoints. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

SETTINGS_KEY = "stu"
"""Our block in a checkpoint; stock nnU-Net ignores it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSettings:
    """The hyperparameters a user may choose; stored in every checkpoint."""

    num_epochs: int = 1000
    num_iterations: int = 250
    num_val_iterations: int = 50
    learning_rate: float = 1e-2
    precision: str = "fp32"
    seed: int | None = None
    deterministic: bool = False
    checkpoint_interval_s: float = 600.0
    augment: str = "device"
    warmup_epochs: float = 0.0
    ema_decay: float | None = None
    patience: int | None = None
    memory_layout: str = "contiguous"
    """`contiguous` or `channels_last`: chosen by timing when a training begins, then kept."""
    pretrained: str | None = None
    """Identity of the weights it began with; None: it began from scratch."""
    recipe: str | None = None
    """How it goes on from them."""
