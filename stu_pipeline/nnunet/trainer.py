"""nnU-Net's trainer with STU's precision, checkpoints, settings and events.

The class is named `nnUNetTrainer` on purpose: folder and checkpoint carry the class name, and stock
`nnUNetv2_predict` and `nnUNetv2_train --c` then resolve it to their own trainer.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer as EngineTrainer
from torch._dynamo import OptimizedModule

from stu_pipeline.errors import ModelError
from stu_pipeline.log import Listener, ignore_events
from stu_pipeline.nnunet.checkpoint import read_checkpoint, write_checkpoint
from stu_pipeline.nnunet.events import CheckpointWritten, EpochDone
from stu_pipeline.nnunet.execution import describe_execution, require_execution, switch_checkpointing
from stu_pipeline.nnunet.finite_guard import FiniteGuard
from stu_pipeline.nnunet.online_scores import count_matches
from stu_pipeline.nnunet.plain import make_plain
from stu_pipeline.nnunet.settings import SETTINGS_KEY, TrainerSettings
from stu_pipeline.nnunet.step import MicroBatch, accumulate_gradients, apply_gradients, run_network, split_batch
from stu_pipeline.nnunet.timed_loader import TimedLoader
from stu_pipeline.plan_execution import Execution
from stu_pipeline.records import describe
from stu_pipeline.workspace import RunPaths

_log = logging.getLogger("stu_pipeline.training")


class StopTrainingError(Exception):
    """Raised inside the loop when a stop was asked for; the fence's caller saves and leaves."""


class nnUNetTrainer(EngineTrainer):  # noqa: N801 - the name is a file format, see the module docstring
    """One run of one fold. Build it with `open_trainer`, which applies the settings."""

    settings = TrainerSettings()
    execution: Execution
    listen: Listener = staticmethod(ignore_events)
    is_stop_asked: Callable[[], bool] = staticmethod(lambda: False)
    # Set by the engine, which declares no types.
    grad_scaler: Any
    dataloader_train: Any
    dataloader_val: Any
    is_ddp: Any
    _best_ema: Any

    def apply_settings(self, settings: TrainerSettings, listen: Listener, is_stop_asked: Callable[[], bool]) -> None:
        """Take the user's choices. Call it before `initialize`."""
        self.settings = settings
        self.listen = listen
        self.is_stop_asked = is_stop_asked
        self.num_epochs = settings.num_epochs
        self.num_iterations_per_epoch = settings.num_iterations
        self.num_val_iterations_per_epoch = settings.num_val_iterations
        self.initial_lr = settings.learning_rate
        if settings.precision != "fp16":
            self.grad_scaler = None
        self._last_checkpoint_s = time.monotonic()
        self._guard = FiniteGuard(self.paths.folder)

    def initialize(self) -> None:
        """Build network, loss and optimizer, and take over how the plan says that a step runs.

        Raises:
            ModelError: the plan promises a step that this network or loss cannot run.
        """
        self.execution = require_execution(self.plans_manager.plans, self.configuration_name, where=self.paths.folder)
        # nnU-Net forces foreground in the last third of a batch, rounded: in a batch of one, never.
        self.probabilistic_oversampling = int(self.configuration_manager.batch_size) == 1
        super().initialize()
        switch_checkpointing(self._bare_network(), self.execution, where=self.paths.folder)
        self.print_to_log_file("execution:", self.describe_execution())

    def describe_execution(self) -> dict[str, Any]:
        """Return how a step runs, for the record of the run."""
        oversampling = {
            "share": float(self.oversample_foreground_percent),
            "is_probabilistic": bool(self.probabilistic_oversampling),
        }
        known = describe_execution(self.execution, batch=int(self.configuration_manager.batch_size))
        return {**known, "foreground_oversampling": oversampling}

    @property
    def paths(self) -> RunPaths:
        """The files of this run."""
        return RunPaths(Path(self.output_folder))

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """Turn nnU-Net's lines into log records of the run."""
        text = " ".join(str(arg) for arg in args).strip()
        if text:
            _log.info("%s", text)

    def plot_network_architecture(self) -> None:
        """Do nothing: nnU-Net's plot needs a package that no longer works."""

    # -- steps -----------------------------------------------------------------------------------

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run one step, in micro-batches where the plan says so. A non-finite loss never reaches the optimizer.

        Raises:
            StopTrainingError: a stop was asked for; the step is not begun.
            NonFiniteError: the loss was not finite three times in a row.
        """
        if self.is_stop_asked():
            raise StopTrainingError
        self.optimizer.zero_grad(set_to_none=True)
        value = accumulate_gradients(
            self.network, self.loss, self._split(batch), precision=self.settings.precision, scaler=self.grad_scaler
        )
        if not self._guard.accept(value, batch=batch, epoch=self.current_epoch):
            self.optimizer.zero_grad(set_to_none=True)
            return {"loss": np.float32(np.nan)}
        if not apply_gradients(self.network, self.optimizer, self.grad_scaler):
            self._guard.note_skipped()
        return {"loss": np.float32(value)}

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score one batch of validation patches: loss and voxel counts per label or region."""
        if self.is_stop_asked():
            raise StopTrainingError
        results = [self._score_part(part) for part in self._split(batch)]
        return {name: sum(result[name] for result in results) for name in results[0]}

    def _score_part(self, part: MicroBatch) -> dict[str, Any]:
        output, target = run_network(self.network, part.data, self.settings.precision), part.target
        loss = self.loss(output, target)
        if self.enable_deep_supervision:
            output, target = output[0], target[0]
        return {"loss": np.float32(loss.item() * part.share), **count_matches(output, target, self.label_manager)}

    def _split(self, batch: dict[str, Any]) -> Iterator[MicroBatch]:
        return split_batch(batch, micro_batch=self.execution.micro_batch, device=self.device)

    # -- epochs ----------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Prepare the loaders; afterwards the time spent waiting for them is measured."""
        super().on_train_start()
        self.dataloader_train = TimedLoader(self.dataloader_train)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log the mean loss of the steps that counted."""
        losses = np.array([output["loss"] for output in train_outputs], dtype=np.float64)
        finite = losses[np.isfinite(losses)]
        self.logger.log("train_losses", float(finite.mean()) if finite.size else float("nan"), self.current_epoch)

    def on_epoch_end(self) -> None:
        """Close the epoch: keep the best weights, save from time to time, tell the listener."""
        self.logger.log("epoch_end_timestamps", time.time(), self.current_epoch)
        ema = self.logger.get_value("ema_fg_dice", step=-1)
        is_best = bool(np.isfinite(ema)) and (self._best_ema is None or ema > self._best_ema)
        if is_best:
            self._best_ema = float(ema)
            self.save_checkpoint(str(self.paths.checkpoint("best")))
        self._save_when_due()
        self.listen(self._describe_epoch(is_best))
        self.current_epoch += 1

    def _save_when_due(self) -> None:
        is_last = self.current_epoch == self.num_epochs - 1
        is_due = (self.current_epoch + 1) % self.save_every == 0
        is_due = is_due or time.monotonic() - self._last_checkpoint_s >= self.settings.checkpoint_interval_s
        if is_due and not is_last:
            self.save_checkpoint(str(self.paths.checkpoint("latest")))

    def _describe_epoch(self, is_best: bool) -> EpochDone:
        def last(key: str) -> Any:
            return self.logger.get_value(key, step=-1)

        elapsed = last("epoch_end_timestamps") - last("epoch_start_timestamps")
        dice = describe(dict(zip(self.list_label_names(), last("dice_per_class_or_region"), strict=True)))
        waited = self.dataloader_train.take_waited_s() if isinstance(self.dataloader_train, TimedLoader) else 0.0
        return EpochDone(
            epoch=self.current_epoch,
            num_epochs=self.num_epochs,
            train_loss=float(last("train_losses")),
            val_loss=float(last("val_losses")),
            dice=dice,
            mean_dice=describe(float(last("mean_fg_dice"))),
            ema_dice=describe(float(last("ema_fg_dice"))),
            learning_rate=float(last("lrs")),
            elapsed_s=float(elapsed),
            data_wait=waited / elapsed if elapsed > 0 else 0.0,
            is_best=is_best,
            num_skipped_steps=self._guard.take_num_skipped(),
        )

    def list_label_names(self) -> list[str]:
        """List the names of the foreground labels or regions, in the order of the Dice values."""
        names = [name for name in self.dataset_json["labels"] if name not in ("background", "ignore")]
        wanted = self.label_manager.foreground_regions if self.label_manager.has_regions else None
        if wanted is None:
            by_id = {self.dataset_json["labels"][name]: name for name in names}
            return [by_id.get(label, str(label)) for label in self.label_manager.foreground_labels]
        return names[: len(wanted)]

    def on_train_end(self) -> None:
        """Write the final checkpoint, then stop the loaders."""
        if isinstance(self.dataloader_train, TimedLoader):
            self.dataloader_train = self.dataloader_train.loader
        super().on_train_end()

    def close_loaders(self) -> None:
        """Stop the loader processes of a training that ends early."""
        for loader in (self.dataloader_train, self.dataloader_val):
            if loader is not None:
                (loader if isinstance(loader, TimedLoader) else TimedLoader(loader)).close()

    # -- checkpoints -----------------------------------------------------------------------------

    def save_checkpoint(self, filename: str, *, is_epoch_done: bool = True) -> None:
        """Write a checkpoint atomically, with stock keys and plain values only.

        Args:
            filename: target; its previous `latest` is kept beside it.
            is_epoch_done: False when the current epoch was interrupted and has to be repeated.
        """
        if self.local_rank != 0 or self.disable_checkpointing:
            return
        start = time.monotonic()
        target = Path(filename)
        checkpoint = {
            "network_weights": self._bare_network().state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler is not None else None,
            "logging": make_plain(self.logger.get_checkpoint()),
            "_best_ema": self._best_ema,
            "current_epoch": self.current_epoch + (1 if is_epoch_done else 0),
            "init_args": {**make_plain(self.my_init_kwargs), "device": self.device},
            "trainer_name": self.__class__.__name__,
            "inference_allowed_mirroring_axes": make_plain(self.inference_allowed_mirroring_axes),
            SETTINGS_KEY: {"schema": 1, "settings": asdict(self.settings), "torch": str(torch.__version__)},
        }
        write_checkpoint(target, checkpoint, keep_previous="latest" in target.name)
        self._last_checkpoint_s = time.monotonic()
        self.listen(
            CheckpointWritten(
                kind=target.stem.removeprefix("checkpoint_"),
                epoch=checkpoint["current_epoch"],
                size_mib=target.stat().st_size / 2**20,
                elapsed_s=time.monotonic() - start,
            )
        )

    def load_checkpoint(self, filename_or_checkpoint: str | dict[str, Any]) -> None:
        """Continue from a checkpoint, read without running any code from the file.

        Raises:
            ModelError: the file is damaged, or belongs to another network.
        """
        if not self.was_initialized:
            self.initialize()
        checkpoint = filename_or_checkpoint
        if not isinstance(checkpoint, dict):
            checkpoint = read_checkpoint(Path(checkpoint))
        try:
            self._bare_network().load_state_dict(checkpoint["network_weights"])
            self.optimizer.load_state_dict(checkpoint["optimizer_state"])
        except (RuntimeError, ValueError) as error:
            first = str(error).splitlines()[1:2] or [str(error)]
            raise ModelError(
                f"checkpoint does not fit the network of this plan: {first[0].strip()}",
                where=self.paths.folder,
                hint="train another plan with --plan NAME, or start anew with --force",
            ) from error
        self.current_epoch = checkpoint["current_epoch"]
        self.logger.load_checkpoint(copy.deepcopy(checkpoint["logging"]))
        self._best_ema = checkpoint["_best_ema"]
        self.inference_allowed_mirroring_axes = checkpoint["inference_allowed_mirroring_axes"]
        if self.grad_scaler is not None and checkpoint["grad_scaler_state"] is not None:
            self.grad_scaler.load_state_dict(checkpoint["grad_scaler_state"])

    def _bare_network(self) -> torch.nn.Module:
        network = self.network.module if self.is_ddp else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network
