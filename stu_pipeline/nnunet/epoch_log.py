"""nnU-Net's log of the epochs, which its checkpoints carry: one value of each kind per epoch."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray


class EpochLog:
    """Writes and reads nnU-Net's logger.

    Args:
        logger: the trainer's.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def begin(self, epoch: int, *, learning_rate: float) -> None:
        """Note the start of an epoch; beginning it again replaces what was noted."""
        self._logger.log("epoch_start_timestamps", time.time(), epoch)
        self._logger.log("lrs", learning_rate, epoch)

    def finish(self, epoch: int, *, train_loss: float, val_loss: float, counts: NDArray[np.float64]) -> None:
        """Note what an epoch came to.

        Args:
            epoch: from 0.
            train_loss: mean over the steps that counted.
            val_loss: mean over the validation batches.
            counts: `(3, label)`: true positives, false positives, false negatives of the validation patches.
        """
        self._logger.log("train_losses", train_loss, epoch)
        positives, false_positives, false_negatives = counts
        with np.errstate(invalid="ignore"):
            dice = 2 * positives / (2 * positives + false_positives + false_negatives)
        mean = float(np.nanmean(dice)) if np.isfinite(dice).any() else float("nan")
        self._note_mean(epoch, mean)
        self._logger.log("dice_per_class_or_region", [float(value) for value in dice], epoch)
        self._logger.log("val_losses", val_loss, epoch)
        self._logger.log("epoch_end_timestamps", time.time(), epoch)

    def _note_mean(self, epoch: int, mean: float) -> None:
        before = self.list_moving_dice()
        self._logger.log("mean_fg_dice", mean, epoch)
        if not math.isfinite(mean):
            # No label was in any patch. nnU-Net's moving average would stay NaN for the rest of the training.
            self._logger.log("ema_fg_dice", before[-1] if before else 0.0, epoch)

    def read(self, key: str) -> Any:
        """Return the newest value of a kind."""
        value = self._logger.get_value(key, step=-1)
        return value if isinstance(value, list) else float(value)

    def list_moving_dice(self) -> list[float]:
        """Return the moving average of the Dice after each epoch."""
        return [float(value) for value in self._logger.get_value("ema_fg_dice", step=None)]
