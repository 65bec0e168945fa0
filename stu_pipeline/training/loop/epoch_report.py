"""Measure an epoch while it runs, and tell of it: steps every few seconds, and the epoch when it is done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from stu_pipeline.log import Listener
from stu_pipeline.nnunet.events import EpochDone, StepsDone
from stu_pipeline.nnunet.trainer import nnUNetTrainer
from stu_pipeline.records import describe
from stu_pipeline.training.loop.ledger import StepLedger
from stu_pipeline.training.story.device_meter import DeviceMeter

_REPORT_S = 5.0


class EpochReport:
    """Adds up where the time of an epoch goes.

    Args:
        trainer: knows epochs, labels and nnU-Net's log.
        listen: receives `StepsDone` and `EpochDone`.
        num_samples: samples of one step, of all ranks.
    """

    def __init__(self, trainer: nnUNetTrainer, listen: Listener, *, num_samples: int) -> None:
        self._trainer = trainer
        self._listen = listen
        self._num_samples = num_samples
        self._meter = DeviceMeter(trainer.device)
        self._begun_s = self._told_s = time.monotonic()
        self._closed_s: float | None = None
        self._busy_s = self._train_s = 0.0
        self._num_steps = 0
        self._num_all_steps, self._all_s = 0, 0.0

    def begin_epoch(self, *, elapsed_s: float = 0.0) -> None:
        """Start the clocks; an epoch that goes on begins with the time it has had.

        What came after the last epoch was told (the best checkpoint, the picture) counts for this one.
        """
        self._begun_s = (time.monotonic() if self._closed_s is None else self._closed_s) - elapsed_s
        self._told_s = time.monotonic()
        self._busy_s, self._train_s, self._num_steps = elapsed_s, 0.0, 0
        self._meter.take()

    def close(self) -> None:
        """Stop watching the device."""
        self._meter.close()

    @property
    def elapsed_s(self) -> float:
        """Seconds of this epoch so far."""
        return time.monotonic() - self._begun_s

    @contextlib.contextmanager
    def measure(self, *, is_training: bool) -> Iterator[None]:
        """Count the time of the block, waiting for data included, as a step's."""
        start = time.monotonic()
        yield
        took = time.monotonic() - start
        self._busy_s += took
        if is_training:
            self._train_s += took
            self._num_steps += 1

    def note_step(self, step: int, *, loss: float | None, waited_s: float) -> None:
        """Tell of the steps so far, every few seconds."""
        now = time.monotonic()
        if now - self._told_s < _REPORT_S:
            return
        self._told_s = now
        trainer = self._trainer
        elapsed_s = self.elapsed_s
        self._listen(
            StepsDone(
                epoch=trainer.current_epoch,
                num_epochs=trainer.num_epochs,
                step=step,
                num_steps=trainer.num_iterations_per_epoch,
                loss=loss,
                step_s=self._train_s / max(1, self._num_steps),
                data_wait=waited_s / elapsed_s if elapsed_s > 0 else 0.0,
                eta_s=self._estimate_left_s(step, elapsed_s),
            )
        )

    def _estimate_left_s(self, step: int, elapsed_s: float) -> float | None:
        trainer = self._trainer
        if step == 0:
            return None
        # A validation batch is a forward pass, about a third of a step.
        whole = trainer.num_iterations_per_epoch + trainer.num_val_iterations_per_epoch / 3
        left = whole * (trainer.num_epochs - trainer.current_epoch) - step
        return float(elapsed_s / step * left)

    def close_epoch(
        self,
        ledger: StepLedger,
        *,
        waited_s: float,
        validation_waited_s: float,
        is_best: bool,
        average_dice: float | None,
    ) -> None:
        """Tell of the finished epoch.

        Args:
            ledger: its steps.
            waited_s: time that training steps waited for data.
            validation_waited_s: the same of the validation.
            is_best: whether its Dice was the best so far.
            average_dice: mean Dice of the averaged weights.
        """
        trainer = self._trainer
        elapsed_s = self.elapsed_s
        self._closed_s = self._begun_s + elapsed_s
        step_s = (self._train_s - waited_s) / self._num_steps if self._num_steps else None
        waited_s += validation_waited_s
        use = self._meter.take()
        dice = dict(zip(trainer.list_label_names(), trainer.epochs.read("dice_per_class_or_region"), strict=True))
        self._listen(
            EpochDone(
                epoch=trainer.current_epoch,
                num_epochs=trainer.num_epochs,
                train_loss=trainer.epochs.read("train_losses"),
                val_loss=trainer.epochs.read("val_losses"),
                dice=describe(dice),
                mean_dice=describe(trainer.epochs.read("mean_fg_dice")),
                ema_dice=describe(trainer.epochs.read("ema_fg_dice")),
                learning_rate=trainer.epochs.read("lrs"),
                elapsed_s=elapsed_s,
                data_wait=waited_s / elapsed_s if elapsed_s > 0 else 0.0,
                is_best=is_best,
                num_skipped_steps=ledger.num_skipped,
                gpu_memory_gib=use.memory_gib,
                gpu_utilization=use.utilization,
                overhead=max(0.0, 1 - self._busy_s / elapsed_s) if elapsed_s > 0 else 0.0,
                step_s=step_s,
                images_per_s=self._num_samples / step_s if step_s else None,
                ema_weights_dice=average_dice,
                start=str(trainer.start["kind"]),
            )
        )
