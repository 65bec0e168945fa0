"""Train one fold of one plan, from wherever it stands to a scored validation.

Reads: plan, preprocessed data. Writes: the run folder (docs/reference/folders.md).
"""

from __future__ import annotations

import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stu_pipeline.errors import MemoryLimitError, StoppedError, UsageError
from stu_pipeline.log import Listener, Notice, ignore_events, log_to_file
from stu_pipeline.nnunet.events import EpochDone
from stu_pipeline.records import describe, write_record
from stu_pipeline.storage import hold_lock, previous_path, read_json, remove_leftovers, storage_errors
from stu_pipeline.training.config import (
    DEFAULT_LEARNING_RATE,
    DEFAULT_NUM_EPOCHS,
    DEFAULT_NUM_ITERATIONS,
    TrainConfig,
    TrainResult,
)
from stu_pipeline.training.cross_validation import summarise_folds
from stu_pipeline.training.progress import RunStory
from stu_pipeline.training.requirements import find_plan, require_fold, require_preprocessed
from stu_pipeline.training.run_state import ResumePoint, find_resume_point, is_finished, is_trained
from stu_pipeline.training.signals import StopFlag, stop_on_signals
from stu_pipeline.workspace import DatasetPaths, RunPaths, find_dataset, fold_folder

if TYPE_CHECKING:
    from stu_pipeline.nnunet.settings import TrainerSettings
    from stu_pipeline.nnunet.trainer import nnUNetTrainer
    from stu_pipeline.planfile import PlanFile

_MAX_LOADER_WORKERS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One fold to train, with everything found on disk."""

    config: TrainConfig
    dataset: DatasetPaths
    plan: PlanFile
    configuration: str
    num_folds: int

    @property
    def model_folder(self) -> Path:
        return self.dataset.model_folder(self.plan.name, self.configuration)

    @property
    def paths(self) -> RunPaths:
        return RunPaths(fold_folder(self.model_folder, self.config.fold))


def train(config: TrainConfig, *, listen: Listener = ignore_events) -> TrainResult:
    """Train one fold and validate it; run it again and it continues.

    Raises:
        DataError: the dataset, its preprocessed data or the fold is missing.
        ModelError: there is no such plan, or its checkpoints cannot be used.
        StorageError: the disk is full or not writable; the last checkpoint is intact.
        LockedError: another run trains this fold.
        NonFiniteError: the loss stayed non-finite; the last checkpoint is intact.
        StoppedError: a signal stopped the run, its state is saved.
    """
    dataset = find_dataset(config.dataset)
    plan = find_plan(dataset, config)
    configuration = plan.configuration(config.configuration or plan.default_configuration).name
    num_folds = require_fold(dataset, config.fold)
    job = _Job(config=config, dataset=dataset, plan=plan, configuration=configuration, num_folds=num_folds)
    if is_finished(job.paths) and not config.force:
        return _describe_result(job, elapsed_s=0.0, was_finished=True)
    require_preprocessed(dataset, plan, configuration)
    start = time.monotonic()
    what = f"fold {config.fold} of '{job.model_folder.name}'"
    with hold_lock(job.paths.lock, what=what), log_to_file(job.paths.log), storage_errors(job.paths.folder):
        remove_leftovers(job.paths.folder)
        _run(job, listen)
    return _describe_result(job, elapsed_s=time.monotonic() - start, was_finished=False)


def _run(job: _Job, listen: Listener) -> None:
    from stu_pipeline.host import count_usable_cores
    from stu_pipeline.nnunet.environment import engine_environment
    from stu_pipeline.nnunet.output import engine_output
    from stu_pipeline.nnunet.session import choose_device, choose_precision, open_trainer

    config, paths = job.config, job.paths
    resume = _choose_start(config, paths, listen)
    device = choose_device(config.device)
    smallest = job.plan.configuration(job.configuration).smallest_map_voxels
    precision = choose_precision(config.precision, device, smallest_map_voxels=smallest)
    settings = _merge_settings(config, resume, precision)
    story = RunStory(paths, first_epoch=resume.epoch if resume else 0)
    # One core is left for the process that trains.
    workers = min(_MAX_LOADER_WORKERS, max(1, count_usable_cores() - 1))
    workers = workers if config.num_workers is None else config.num_workers

    def hear(event: object) -> None:
        if isinstance(event, EpochDone):
            story.add(event)
        listen(event)

    with (
        stop_on_signals() as stop,
        engine_environment(job.dataset.workspace, num_workers=workers),
        engine_output(paths.log),
    ):
        trainer = open_trainer(
            job.plan.raw,
            read_json(job.dataset.preprocessed_dataset_json),
            configuration=job.configuration,
            fold=config.fold,
            device=device,
            settings=settings,
            listen=hear,
            is_stop_asked=stop.is_set,
        )
        execution = trainer.describe_execution()
        _record_start(job, settings, resume, device=str(device), num_workers=workers, execution=execution)
        listen(Notice(text=_describe_start(job, settings, str(device), resume) + _describe_step(execution)))
        if resume is not None:
            trainer.load_checkpoint(resume.checkpoint)
        _train_and_validate(trainer, job, story, stop)


def _train_and_validate(trainer: nnUNetTrainer, job: _Job, story: RunStory, stop: StopFlag) -> None:
    from stu_pipeline.nnunet.memory_meter import is_out_of_memory
    from stu_pipeline.nnunet.trainer import StopTrainingError
    from stu_pipeline.nnunet.validation import validate_fold

    paths = job.paths
    is_training = not is_trained(paths) or trainer.current_epoch < trainer.num_epochs
    try:
        if is_training:
            _drop_replaced(paths, is_new=trainer.current_epoch == 0)
            trainer.run_training()
            is_training = False
        story.plot()
        validate_fold(trainer, job.dataset)
    except StopTrainingError:
        if is_training:
            trainer.save_checkpoint(str(paths.checkpoint("latest")), is_epoch_done=False)
        number = stop.signal_number or signal.SIGTERM
        raise StoppedError(
            f"stopped by signal {int(number)} at epoch {trainer.current_epoch}, state saved",
            signal_number=int(number),
            where=paths.folder,
            hint="run the same command to continue",
        ) from None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryLimitError(
            f"memory ran out in epoch {trainer.current_epoch}: {str(error).splitlines()[0]}",
            where=paths.folder,
            hint=f"plan for less: stu plan {job.dataset.name} --plan NAME --gpu-memory GIB",
        ) from error
    finally:
        if is_training:
            trainer.close_loaders()


def _choose_start(config: TrainConfig, paths: RunPaths, listen: Listener) -> ResumePoint | None:
    if config.force or config.resume == "never":
        if is_trained(paths) and not config.force:
            raise UsageError(
                f"fold {config.fold} is trained; starting anew would replace it",
                where=paths.folder,
                hint="add --force to train it again",
            )
        return None
    resume = find_resume_point(paths)
    if resume is not None and resume.damaged:
        names = ", ".join(path.name for path in resume.damaged)
        listen(Notice(text=f"damaged and passed over: {names}; continuing from {resume.path.name}", is_warning=True))
    return resume


def _merge_settings(config: TrainConfig, resume: ResumePoint | None, precision: str) -> TrainerSettings:
    """Take each value from the flags, else from the checkpoint, else nnU-Net's default."""
    from stu_pipeline.nnunet.settings import TrainerSettings

    stored = resume.settings if resume else {}

    def pick(flag: Any, name: str, default: Any) -> Any:
        return flag if flag is not None else stored.get(name, default)

    num_iterations = int(pick(config.num_iterations, "num_iterations", DEFAULT_NUM_ITERATIONS))
    return TrainerSettings(
        num_epochs=int(pick(config.num_epochs, "num_epochs", DEFAULT_NUM_EPOCHS)),
        num_iterations=num_iterations,
        # nnU-Net's 250 and 50, in proportion.
        num_val_iterations=max(1, num_iterations // 5),
        learning_rate=float(pick(config.learning_rate, "learning_rate", DEFAULT_LEARNING_RATE)),
        precision=precision,
        seed=pick(config.seed, "seed", None),
        deterministic=config.deterministic,
    )


def _drop_replaced(paths: RunPaths, *, is_new: bool) -> None:
    """Drop what an earlier training of this fold left and this one replaces."""
    shutil.rmtree(paths.folder / "validation", ignore_errors=True)
    if is_new:
        latest = paths.checkpoint("latest")
        for path in (paths.checkpoint("final"), latest, previous_path(latest), paths.checkpoint("best")):
            path.unlink(missing_ok=True)


def _record_start(job: _Job, settings: TrainerSettings, resume: ResumePoint | None, **facts: Any) -> None:
    write_record(
        job.paths.record,
        stage="train",
        config=job.config,
        inputs={
            "plan": job.dataset.plan_file(job.plan.name),
            "dataset_json": job.dataset.preprocessed_dataset_json,
        },
        settings=settings,
        continued_from={"checkpoint": resume.path.name, "epoch": resume.epoch} if resume else None,
        **facts,
    )


def _describe_start(job: _Job, settings: TrainerSettings, device: str, resume: ResumePoint | None) -> str:
    begin = f"continuing from {resume.path.name} at epoch {resume.epoch}" if resume else "starting"
    return (
        f"{begin}: fold {job.config.fold} of {job.configuration}, {settings.num_epochs} epochs of "
        f"{settings.num_iterations} steps, {settings.precision} on {device}"
    )


def _describe_step(execution: dict[str, Any]) -> str:
    """Say what is not ordinary about a step: how the batch is split, and what is recomputed."""
    text = ""
    if execution["num_accumulation_steps"] > 1:
        text += f", batch {execution['effective_batch']} in parts of {execution['micro_batch']}"
    return text + (", activation checkpointing" if execution["activation_checkpointing"] else "")


def _describe_result(job: _Job, *, elapsed_s: float, was_finished: bool) -> TrainResult:
    paths = job.paths
    summary = read_json(paths.validation_summary)
    names = _name_labels(read_json(job.dataset.preprocessed_dataset_json)["labels"])
    record = read_json(paths.record) if paths.record.is_file() else {}
    return TrainResult(
        dataset=job.dataset.name,
        plan_name=job.plan.name,
        configuration=job.configuration,
        fold=job.config.fold,
        run_folder=paths.folder,
        model_folder=job.model_folder,
        num_epochs=int(record.get("settings", {}).get("num_epochs", 0)),
        mean_dice=describe(summary["foreground_mean"]["Dice"]),
        dice={names.get(key, key): describe(scores["Dice"]) for key, scores in summary["mean"].items()},
        elapsed_s=elapsed_s,
        was_finished=was_finished,
        cross_validation=None if job.config.fold == "all" else summarise_folds(job.model_folder, job.num_folds),
    )


def _name_labels(labels: dict[str, Any]) -> dict[str, str]:
    """Map the keys of a summary, `1` or `(1, 2)` for a region, to label names."""
    names = {}
    for name, ids in labels.items():
        values = ids if isinstance(ids, list) else [ids]
        names[str(tuple(values))] = name
        if len(values) == 1:  # beside true regions nnU-Net keeps a list of one label as it is
            names[str(values[0])] = name
    return names
