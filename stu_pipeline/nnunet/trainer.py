"""nnU-Net's trainer with STU's precision, checkpoints, settings and events.

The class is named `nnUNetTrainer` on purpose: folder and checkpoint carry the class name, and stock
`nnUNetv2_predict` and `nnUNetv2_train --c` then resolve it to their own trainer.
"""

from __future__ import annotations

import copy
import logging
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer as EngineTrainer
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.errors import ModelError
from stu_pipeline.log import Listener, ignore_events
from stu_pipeline.nnunet.checkpoint import read_checkpoint, write_checkpoint
from stu_pipeline.nnunet.epoch_log import EpochLog
from stu_pipeline.nnunet.events import CheckpointWritten
from stu_pipeline.nnunet.execution import describe_execution, require_execution, switch_checkpointing
from stu_pipeline.nnunet.model_files import write_model_files
from stu_pipeline.nnunet.optimizer import build_optimizer, make_own_optimizer_state, make_stock_optimizer_state
from stu_pipeline.nnunet.plain import make_plain
from stu_pipeline.nnunet.settings import SETTINGS_KEY, TrainerSettings
from stu_pipeline.nnunet.sharding import Sharding
from stu_pipeline.plan_execution import Execution
from stu_pipeline.workspace import RunPaths

_log = logging.getLogger("stu_pipeline.training")


NUM_KEPT = 2
"""Older copies of the newest checkpoint that stay beside it."""


class StopTrainingError(Exception):
    """Raised where a stop was asked for; whoever catches it leaves. The training's state is saved.

    Args:
        signal_number: the signal that asked.
    """

    def __init__(self, signal_number: int = signal.SIGTERM) -> None:
        super().__init__(signal_number)
        self.signal_number = int(signal_number)


class nnUNetTrainer(EngineTrainer):  # noqa: N801 - the name is a file format, see the module docstring
    """One run of one fold. Build it with `open_trainer`, which applies the settings."""

    settings = TrainerSettings()
    execution: Execution
    listen: Listener = staticmethod(ignore_events)
    is_stop_asked: Callable[[], bool] = staticmethod(lambda: False)
    mirroring: Mirroring
    describe_state: Callable[[], dict[str, Any]] = staticmethod(dict)
    """What our loop adds to a checkpoint, to go on from exactly there."""
    sharding: Sharding | None = None
    start: Mapping[str, Any] = {"kind": "scratch"}
    """What the training began with: plain values, kept in every checkpoint."""
    # Set by the engine, which declares no types.
    grad_scaler: Any
    dataloader_train: Any
    dataloader_val: Any
    is_ddp: Any
    _best_ema: Any
    """Best moving average of the Dice; nnU-Net's name."""

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

    def initialize(self) -> None:
        """Build network, loss and optimizer, and take over how the plan says that a step runs.

        Raises:
            ModelError: the plan promises a step that this network or loss cannot run.
        """
        self.execution = require_execution(self.plans_manager.plans, self.configuration_name, where=self.paths.folder)
        # nnU-Net forces foreground in the last third of a batch, rounded: in a batch of one, never.
        self.probabilistic_oversampling = int(self.configuration_manager.batch_size) == 1
        super().initialize()
        axes = tuple(range(len(self.configuration_manager.patch_size)))
        self.mirroring = Mirroring(axes=axes)
        switch_checkpointing(self.bare_network, self.execution, where=self.paths.folder)

    def describe_execution(self, chosen: Execution | None = None) -> dict[str, Any]:
        """Return how a step runs, for the record of the run; None takes the plan's way."""
        oversampling = {
            "share": float(self.oversample_foreground_percent),
            "is_probabilistic": bool(self.probabilistic_oversampling),
        }
        known = describe_execution(chosen or self.execution, batch=int(self.configuration_manager.batch_size))
        return {**known, "foreground_oversampling": oversampling}

    @property
    def epochs(self) -> EpochLog:
        """nnU-Net's log of the epochs."""
        return EpochLog(self.logger)

    @property
    def paths(self) -> RunPaths:
        """The files of this run."""
        return RunPaths(Path(self.output_folder))

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """Turn nnU-Net's lines into log records of the run."""
        text = " ".join(str(arg) for arg in args).strip()
        if text:
            _log.info("%s", text)

    def _do_i_compile(self) -> bool:
        return False  # our caller compiles, after it has tried whether that works

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Choose whether the network returns all levels."""
        decoder: Any = self.bare_network.decoder
        decoder.deep_supervision = enabled

    def plot_network_architecture(self) -> None:
        """Do nothing: nnU-Net's plot needs a package that no longer works."""

    # -- epochs, as our loop drives them -----------------------------------------------------------

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Build nnU-Net's optimizer in the form our steps need, and its schedule, which our loop does not use."""
        _, schedule = super().configure_optimizers()
        optimizer = build_optimizer(self.network, learning_rate=self.initial_lr, weight_decay=self.weight_decay)
        schedule.optimizer = optimizer
        return optimizer, schedule

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Open nnU-Net's own loaders where its augmentation was asked for; else ours are at work."""
        return super().get_dataloaders() if self.settings.augment == "cpu" else (None, None)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, bool, Any, tuple[int, ...]]:  # noqa: N802
        """Return nnU-Net's recipe; its own loader mirrors only the axes along which no label changes sides."""
        rotation, is_dummy_2d, initial_patch, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = self.mirroring.plain_axes or None
        return rotation, is_dummy_2d, initial_patch, self.mirroring.plain_axes

    def on_train_start(self) -> None:
        """Write plan and dataset beside the folds, and open the loaders. Only the first rank writes."""
        self.set_deep_supervision_enabled(self.enable_deep_supervision)
        if self.local_rank != 0:
            return
        self.dataloader_train, self.dataloader_val = self.get_dataloaders()
        self.paths.folder.mkdir(parents=True, exist_ok=True)
        self.print_plans()
        base = Path(self.preprocessed_dataset_folder_base)
        write_model_files(
            Path(self.output_folder_base),
            plan=self.plans_manager.plans,
            dataset_json=self.dataset_json,
            fingerprint=base / "dataset_fingerprint.json",
        )

    def list_level_weights(self) -> list[float] | None:
        """Return the weight of each level in the loss, full resolution first; None without deep supervision."""
        return list(self.loss.weight_factors) if self.enable_deep_supervision else None

    def list_label_names(self) -> list[str]:
        """List the names of the foreground labels or regions, in the order of the Dice values."""
        names = [name for name in self.dataset_json["labels"] if name not in ("background", "ignore")]
        wanted = self.label_manager.foreground_regions if self.label_manager.has_regions else None
        if wanted is None:
            by_id = {self.dataset_json["labels"][name]: name for name in names}
            return [by_id.get(label, str(label)) for label in self.label_manager.foreground_labels]
        return names[: len(wanted)]

    def close_loaders(self) -> None:
        """Stop nnU-Net's loader processes, where it has any."""
        for loader in (self.dataloader_train, self.dataloader_val):
            if isinstance(loader, NonDetMultiThreadedAugmenter):
                loader._finish()  # its only way to stop
        self.dataloader_train = self.dataloader_val = None

    # -- checkpoints -----------------------------------------------------------------------------

    def save_checkpoint(self, filename: str, *, is_slim: bool = False, weights: dict[str, Any] | None = None) -> None:
        """Write a checkpoint atomically, with stock keys and plain values only.

        `current_epoch` is the epoch to begin with; where in it a training of ours goes on is in our own block, and
        stock nnU-Net repeats the epoch.

        Args:
            filename: target; older ones of a `latest` are kept beside it.
            is_slim: leave out the optimizer's state; a training that continues from it begins without momentum.
            weights: other weights than the network's own, for example averaged ones.
        """
        own, optimizer_state = self.gather_state()
        if self.local_rank != 0 or self.disable_checkpointing:
            return
        start = time.monotonic()
        target = Path(filename)
        checkpoint = {
            "network_weights": own if weights is None else weights,
            "optimizer_state": make_stock_optimizer_state(optimizer_state, is_slim=is_slim),
            "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler is not None else None,
            "logging": make_plain(self.logger.get_checkpoint()),
            "_best_ema": self._best_ema,
            "current_epoch": self.current_epoch,
            "init_args": {**make_plain(self.my_init_kwargs), "device": self.device},
            "trainer_name": self.__class__.__name__,
            "inference_allowed_mirroring_axes": self.mirroring.plain_axes or None,
            SETTINGS_KEY: {
                "schema": 2,
                "settings": asdict(self.settings),
                "torch": str(torch.__version__),
                "mirroring": self.mirroring.to_json(),
                "start": dict(self.start),
                **({} if is_slim else self.describe_state()),
            },
        }
        write_checkpoint(target, checkpoint, num_kept=NUM_KEPT if target == self.paths.checkpoint("latest") else 0)
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
            self.spread_state(checkpoint["network_weights"], checkpoint["optimizer_state"])
        except (RuntimeError, ValueError, KeyError) as error:
            first = str(error).splitlines()[1:2] or [str(error)]
            raise ModelError(
                f"checkpoint does not fit the network of this plan: {first[0].strip()}",
                where=self.paths.folder,
                hint="train another plan with --plan NAME, or start anew with --force",
            ) from error
        self.current_epoch = checkpoint["current_epoch"]
        self.logger.load_checkpoint(copy.deepcopy(checkpoint["logging"]))
        self._best_ema = checkpoint["_best_ema"]
        if self.grad_scaler is not None and checkpoint["grad_scaler_state"]:
            self.grad_scaler.load_state_dict(checkpoint["grad_scaler_state"])

    def gather_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the whole state of network and optimizer; every rank must call it."""
        if self.sharding is not None:
            return self.sharding.gather(self.bare_network, self.optimizer)
        return self.bare_network.state_dict(), self.optimizer.state_dict()

    def spread_state(self, weights: dict[str, Any], optimizer_state: dict[str, Any]) -> None:
        """Load the whole state into network and optimizer; every rank must call it."""
        state = make_own_optimizer_state(optimizer_state, self.optimizer)
        if self.sharding is not None:
            self.sharding.spread(self.bare_network, self.optimizer, weights, state)
        else:
            self.bare_network.load_state_dict(weights)
            self.optimizer.load_state_dict(state)

    @property
    def bare_network(self) -> torch.nn.Module:
        """The network itself, neither compiled nor wrapped for several ranks."""
        network = self.network
        while True:
            if isinstance(network, OptimizedModule):
                network = network._orig_mod
            elif isinstance(network, DistributedDataParallel):
                network = network.module
            else:
                return network
