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
from stu_pipeline.training.finetuning.recipes import DEFAULT_RECIPE, RECIPES


def choose_settings(
    config: TrainConfig, stored: Mapping[str, Any], *, precision: str, pretrained: str | None = None
) -> TrainerSettings:
    """Take each value from the flags, else from the checkpoint that is continued, else the recipe's or nnU-Net's.

    Args:
        config: the flags.
        stored: settings of the checkpoint; empty for a new run or a stock checkpoint.
        precision: as chosen for this machine.
        pretrained: identity of the weights that a new run begins with; None from scratch.
    """
    pretrained = stored.get("pretrained") if stored else pretrained
    recipe = None if pretrained is None else RECIPES[stored.get("recipe") or config.recipe or DEFAULT_RECIPE]

    def pick(flag: Any, name: str, default: Any) -> Any:
        return flag if flag is not None else stored.get(name, default)

    num_iterations = int(pick(config.num_iterations, "num_iterations", DEFAULT_NUM_ITERATIONS))
    num_epochs = int(pick(config.num_epochs, "num_epochs", DEFAULT_NUM_EPOCHS))
    learning_rate = DEFAULT_LEARNING_RATE if recipe is None else recipe.learning_rate
    warmup_epochs = 0.0 if recipe is None else recipe.choose_warmup_epochs(num_epochs)
    seed = pick(config.seed, "seed", None)
    return TrainerSettings(
        num_epochs=num_epochs,
        num_iterations=num_iterations,
        # nnU-Net's 250 and 50, in proportion.
        num_val_iterations=max(1, num_iterations // 5),
        learning_rate=float(pick(config.learning_rate, "learning_rate", learning_rate)),
        precision=precision,
        # Samples follow from the seed, so a run always has one, and goes on with it.
        seed=secrets.randbits(31) if seed is None else int(seed),
        deterministic=config.deterministic,
        checkpoint_interval_s=config.checkpoint_minutes * 60,
        augment=str(pick(config.augment, "augment", "device")),
        warmup_epochs=float(pick(config.warmup_epochs, "warmup_epochs", warmup_epochs)),
        ema_decay=pick(config.ema_decay, "ema_decay", None),
        patience=pick(config.patience, "patience", None),
        memory_layout=str(stored.get("memory_layout", "contiguous")),
        pretrained=pretrained,
        recipe=None if recipe is None else recipe.name,
    )
