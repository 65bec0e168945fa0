"""The epochs of a training: steps, validation patches, checkpoints, and going on from exactly where it stopped."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from stu_pipeline.errors import NonFiniteError
from stu_pipeline.log import Listener
from stu_pipeline.nnunet.trainer import StopTrainingError, nnUNetTrainer
from stu_pipeline.training.finetuning.steering import Steering
from stu_pipeline.training.loop.batch import Batch
from stu_pipeline.training.loop.control import Orders, RunControl
from stu_pipeline.training.loop.ema import WeightAverage
from stu_pipeline.training.loop.epoch_report import EpochReport
from stu_pipeline.training.loop.ledger import StepLedger
from stu_pipeline.training.loop.memory_relief import MemoryRelief
from stu_pipeline.training.loop.online_validation import score_patches
from stu_pipeline.training.loop.position import Position
from stu_pipeline.training.loop.schedule import choose_learning_rate, is_out_of_patience
from stu_pipeline.training.loop.step import TrainingStep
from stu_pipeline.training.parallel.reduce import agree_max


class BatchSource(Protocol):
    """Gives the batches of a training in order."""

    def take(self, step: int, *, while_waiting: Callable[[], None] | None = None) -> Batch:
        """Return the batch of a step, counted from the start of the training. Steps are asked for in order."""

    @property
    def waited_s(self) -> float:
        """Seconds waited for data since `take_waited_s`."""

    def take_waited_s(self) -> float:
        """Return the seconds waited for data, and start to count anew."""

    def close(self) -> None:
        """End whatever works for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopParts:
    """What a loop works with."""

    trainer: nnUNetTrainer
    step: TrainingStep
    open_batches: Callable[[int], BatchSource]
    """Opens the training batches from a step on."""
    open_validation: Callable[[int], BatchSource]
    control: RunControl
    relief: MemoryRelief
    listen: Listener
    batch_size: int
    """Samples of one step, of all ranks."""
    average: WeightAverage | None = None
    learning_rate_factor: float = 1.0
    warmup_epochs: float = 0.0
    world_size: int = 1
    steering: Steering | None = None
    """Where weights move apart; None where all have the same learning rate."""


class TrainingLoop:
    """Trains a fold from a position to its end.

    Args:
        parts: what it works with.
        position: where in the trainer's current epoch to begin.
    """

    def __init__(self, parts: LoopParts, position: Position) -> None:
        self._parts = parts
        self._trainer = parts.trainer
        self._position = position
        self._ledger = StepLedger(self._trainer.paths.folder)
        self._report = EpochReport(parts.trainer, parts.listen, num_samples=parts.batch_size)
        self._trainer.describe_state = self._describe_state

    def run(self) -> None:
        """Train until the last epoch, and write the final checkpoint.

        Raises:
            StopTrainingError: a signal asked for the end; the state is saved.
            NonFiniteError: losses or gradients were not finite three times in a row; the last finite state is saved.
        """
        trainer = self._trainer
        trainer.on_train_start()
        first = trainer.current_epoch * trainer.num_iterations_per_epoch + self._position.step
        batches = self._parts.open_batches(first)
        try:
            validation = self._parts.open_validation(trainer.current_epoch * trainer.num_val_iterations_per_epoch)
            try:
                while trainer.current_epoch < trainer.num_epochs and not self._position.is_complete:
                    self._run_epoch(batches, validation)
            finally:
                validation.close()
        except NonFiniteError:
            self._ledger.forget_pending()
            self._save()
            raise
        finally:
            batches.close()
            self._report.close()
        self._save_final()

    def _save_final(self) -> None:
        trainer = self._trainer
        self._position.is_complete = True
        # The final one comes last: with it the training is over, and nothing is written again.
        if self._parts.average is not None:
            averaged = self._parts.average.network.state_dict()
            trainer.save_checkpoint(str(trainer.paths.checkpoint("ema")), is_slim=True, weights=averaged)
        trainer.save_checkpoint(str(trainer.paths.checkpoint("final")))

    # -- one epoch -------------------------------------------------------------------------------

    def _run_epoch(self, batches: BatchSource, validation: BatchSource) -> None:
        trainer, position = self._trainer, self._position
        trainer.epochs.begin(trainer.current_epoch, learning_rate=self._choose_learning_rate(step=0))
        self._ledger.begin_epoch(position.losses, num_skipped=position.num_skipped)
        self._report.begin_epoch(elapsed_s=position.elapsed_s)
        trainer.network.train()
        while position.step < trainer.num_iterations_per_epoch:
            self._train_step(batches)
        with self._report.measure(is_training=False):
            self._ledger.settle()
        val_loss, counts, average_dice = self._validate(validation)
        trainer.epochs.finish(
            trainer.current_epoch, train_loss=self._ledger.mean_loss, val_loss=val_loss, counts=counts
        )
        self._close_epoch(
            waited_s=batches.take_waited_s(), validation_waited_s=validation.take_waited_s(), average_dice=average_dice
        )

    def _train_step(self, batches: BatchSource) -> None:
        parts, trainer, position = self._parts, self._trainer, self._position
        self._set_learning_rates()
        index = trainer.current_epoch * trainer.num_iterations_per_epoch + position.step
        with self._report.measure(is_training=True):
            batch = batches.take(index, while_waiting=self._obey_signals)
            outcome = parts.relief.run(parts.step, batch)
            position.step += 1
            agreed = self._ledger.add(
                outcome,
                self._exchange_orders(batch.data.device),
                batch_cases=batch.case_ids,
                epoch=trainer.current_epoch,
                step=position.step,
            )
            if parts.average is not None:
                parts.average.update(trainer.bare_network)
        self._report.note_step(position.step, loss=self._ledger.last_loss, waited_s=batches.waited_s)
        # One process obeys at once; several read what they agreed on, a step late, all at the same step.
        self._obey(parts.control.read_orders() if parts.world_size == 1 else Orders.from_numbers(agreed or (0, 0)))

    def _set_learning_rates(self) -> None:
        trainer, step, steering = self._trainer, self._position.step, self._parts.steering
        rate = self._choose_learning_rate(step=step)
        if steering is not None:
            num_steps = trainer.num_iterations_per_epoch
            steering.begin_step(trainer.optimizer, rate, epoch=trainer.current_epoch, step=step, num_steps=num_steps)
            return
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate

    def _choose_learning_rate(self, *, step: int) -> float:
        trainer = self._trainer
        return choose_learning_rate(
            trainer.current_epoch,
            step,
            initial=trainer.initial_lr * self._parts.learning_rate_factor,
            num_epochs=trainer.num_epochs,
            num_iterations=trainer.num_iterations_per_epoch,
            warmup_epochs=self._parts.warmup_epochs,
        )

    def _validate(self, validation: BatchSource) -> tuple[float, NDArray[np.float64], float | None]:
        """Score the epoch's validation patches: mean loss, counts per label, mean Dice of the averaged weights."""
        parts, trainer = self._parts, self._trainer
        num_batches = trainer.num_val_iterations_per_epoch
        first = trainer.current_epoch * num_batches
        networks = [trainer.network, *([parts.average.network] if parts.average is not None else [])]
        with self._report.measure(is_training=False):
            scores = score_patches(
                parts.step,
                networks,
                (validation.take(first + index, while_waiting=self._obey_signals) for index in range(num_batches)),
                regions=trainer.label_manager.has_regions,
                ignore_label=trainer.label_manager.ignore_label,
                between=self._check_between_batches,
            )
        average_dice = scores[1].mean_dice if len(scores) > 1 else None
        return scores[0].loss, scores[0].counts, average_dice

    def _check_between_batches(self, device: torch.device) -> None:
        orders = self._parts.control.read_orders()
        if self._parts.world_size > 1:
            orders = Orders.from_numbers(self._exchange_orders(device).tolist())
        self._obey(orders)

    def _close_epoch(self, *, waited_s: float, validation_waited_s: float, average_dice: float | None) -> None:
        trainer = self._trainer
        is_best = self._note_best()
        self._report.close_epoch(
            self._ledger,
            waited_s=waited_s,
            validation_waited_s=validation_waited_s,
            is_best=is_best,
            average_dice=average_dice,
        )
        trainer.current_epoch += 1
        stops = is_out_of_patience(trainer.epochs.list_moving_dice(), trainer.settings.patience)
        self._position = Position(is_complete=stops)
        self._ledger.begin_epoch()
        if is_best:
            trainer.save_checkpoint(str(trainer.paths.checkpoint("best")), is_slim=True)

    def _note_best(self) -> bool:
        """Tell whether the moving average of the Dice has never been higher, and remember it."""
        trainer = self._trainer
        moving = float(trainer.epochs.read("ema_fg_dice"))
        is_best = math.isfinite(moving) and (trainer._best_ema is None or moving > trainer._best_ema)
        if is_best:
            trainer._best_ema = moving
        return is_best

    # -- stopping and saving ---------------------------------------------------------------------

    def _exchange_orders(self, device: torch.device) -> torch.Tensor:
        """Return what the ranks want together, on the device; nothing for a single process."""
        if self._parts.world_size == 1:
            return torch.empty(0, device=device)
        numbers = torch.tensor(self._parts.control.read_orders().to_numbers(), device=device)
        return agree_max(numbers)

    def _obey_signals(self) -> None:
        """Stop while waiting for data; several ranks can only stop together, after a step."""
        if self._parts.world_size == 1 and (number := self._parts.control.read_orders().stop_signal):
            self._obey(Orders(stop_signal=number))

    def _obey(self, orders: Orders) -> None:
        if orders.is_save_due or orders.stop_signal:
            self._save()
        if orders.stop_signal:
            raise StopTrainingError(orders.stop_signal)

    def _save(self) -> None:
        self._ledger.settle()
        trainer = self._trainer
        trainer.save_checkpoint(str(trainer.paths.checkpoint("latest")))
        self._parts.control.note_saved()

    def _describe_state(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside weights and optimizer, to go on from exactly here."""
        position = self._position
        position.losses = list(self._ledger.losses)
        position.num_skipped = self._ledger.num_skipped
        position.elapsed_s = self._report.elapsed_s if position.step else 0.0
        average = self._parts.average
        return {
            "position": position.to_json(),
            "execution": self._parts.relief.execution.to_json(),
            "average": None if average is None else average.state_dict(),
        }
