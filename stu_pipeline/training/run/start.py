"""How a training begins: anew, or from a checkpoint; and what it replaces."""

from __future__ import annotations

import shutil
from pathlib import Path

from stu_pipeline.errors import UsageError
from stu_pipeline.log import Listener, Notice
from stu_pipeline.storage import previous_path, remove_leftovers
from stu_pipeline.training.config import TrainConfig
from stu_pipeline.training.run.state import NUM_OLDER, ResumePoint, find_resume_point, is_trained
from stu_pipeline.workspace import RunPaths

STARTING_WEIGHTS = "starting_weights.safetensors"
"""What a run began with, where its recipe pulls to it."""
_DAMAGED = ".damaged"


def choose_start(config: TrainConfig, paths: RunPaths, listen: Listener) -> ResumePoint | None:
    """Return the checkpoint to continue from; None begins anew.

    Raises:
        UsageError: beginning anew would replace a trained fold.
        ModelError: no checkpoint of the run can be read.
    """
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
    if resume is not None and not resume.has_momentum:
        listen(Notice(text=f"{resume.path.name} holds no momentum: the training continues without", is_warning=True))
    return resume


def drop_leftovers(paths: RunPaths) -> None:
    """Drop what a killed run had half written, the validation included. Call it while holding the lock."""
    validation = paths.folder / "validation"
    for folder in (paths.folder, validation):
        remove_leftovers(folder)
    shutil.rmtree(validation.with_name("validation.partial"), ignore_errors=True)


def set_aside(resume: ResumePoint) -> None:
    """Rename the damaged checkpoints: they stay for whoever wants to look, and never take the place of a good one."""
    for path in resume.damaged:
        path.replace(path.with_name(path.name + _DAMAGED))


def drop_replaced(paths: RunPaths, *, is_new: bool) -> None:
    """Drop what an earlier training of this fold left and this one replaces."""
    for summary in (paths.validation_summary, paths.averaged_summary):
        shutil.rmtree(summary.parent, ignore_errors=True)
    if is_new:
        for path in (
            paths.checkpoint("final"),
            *_list_newest(paths),
            paths.checkpoint("best"),
            paths.checkpoint("ema"),
            paths.folder / STARTING_WEIGHTS,
        ):
            path.unlink(missing_ok=True)


def drop_outlived(paths: RunPaths) -> None:
    """Drop the checkpoints a finished training no longer needs; nnU-Net drops its `latest` too."""
    if paths.checkpoint("final").is_file():
        for path in (*_list_newest(paths), *paths.folder.glob(f"checkpoint_*{_DAMAGED}")):
            path.unlink(missing_ok=True)


def _list_newest(paths: RunPaths) -> list[Path]:
    latest = paths.checkpoint("latest")
    return [latest, *(previous_path(latest, age) for age in range(1, NUM_OLDER + 1))]
