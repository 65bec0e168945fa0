"""The hyperparameters of a run: from the flags, else from the checkpoint, else nnU-Net's."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from stu_pipeline.nnunet.settings import TrainerSettings
from stu_pipeline.training.config import (
    DEFAULT_LEARNING_RATE,
    DEFAULT_NUM_EPOCHS,
    DEFAULT_NUM_ITERATIONS,
    TrainConfig,
)


def choose_settings(config: TrainConfig, stored: Mapping[str, Any], *, precision: str) -> TrainerSettings:
    """Take each value from the flags, else from the checkpoint that is continued, else nnU-Net's default.

    Args:
        config: the flags.
        stored: settings of the checkpoint; empty for a new run or a stock checkpoint.
        precision: as chosen for this machine.
    """

    def pick(flag: Any, name: str, default: Any) -> Any:
        return flag if flag is not None else stored.get(name, default)

    num_iterations = int(pick(config.num_iterations, "num_iterations", DEFAULT_NUM_ITERATIONS))
    seed = pick(config.seed, "seed", None)
    return TrainerSettings(
        num_epochs=int(pick(config.num_epochs, "num_epochs", DEFAULT_NUM_EPOCHS)),
        num_iterations=num_iterations,
        # nnU-Net's 250 and 50, in proportion.
        num_val_iterations=max(1, num_iterations // 5),
        learning_rate=float(pick(config.learning_rate, "learning_rate", DEFAULT_LEARNING_RATE)),
        precision=precision,
        # Samples follow from the seed, so a run always has one, and goes on with it.
        seed=secrets.randbits(31) if seed is None else int(seed),
        deterministic=config.deterministic,
        checkpoint_interval_s=config.checkpoint_minutes * 60,
        augment=str(pick(config.augment, "augment", "device")),
        warmup_epochs=float(pick(config.warmup_epochs, "warmup_epochs", 0.0)),
        ema_decay=pick(config.ema_decay, "ema_decay", None),
        patience=pick(config.patience, "patience", None),
        memory_layout=str(stored.get("memory_layout", "contiguous")),
    )
