"""Events of a training, made by hand."""

from __future__ import annotations

from stu_pipeline.nnunet.events import EpochDone


def make_epoch(epoch, **changes):
    """Make a finished epoch of thirty."""
    values = {
        "epoch": epoch,
        "num_epochs": 30,
        "train_loss": -0.5,
        "val_loss": -0.4,
        "dice": {"liver": 0.9},
        "mean_dice": 0.9,
        "ema_dice": 0.8,
        "learning_rate": 0.01,
        "elapsed_s": 30.0,
        "data_wait": 0.02,
        "is_best": False,
    }
    return EpochDone(**{**values, **changes})
