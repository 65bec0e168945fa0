"""Which folds of a model folder may be used, and what to say when none can be.

Reads: `fold_*/checkpoint_*.pth`.
"""

from __future__ import annotations

import re
from pathlib import Path

from stu_pipeline.errors import ModelError
from stu_pipeline.prediction.config import Checkpoint, Folds
from stu_pipeline.workspace import RunPaths, fold_folder

UNUSED_KEYS = ("optimizer_state", "grad_scaler_state")
"""What a prediction needs of no checkpoint."""
NAME_PARTS = 3
_FOLD = re.compile(r"fold_(\d+|all)\Z")
_OUR_PLAN = re.compile(r"stu([SBLH])Plans\Z")

Fold = int | str


def choose_folds(path: Path, folds: Folds, checkpoint: Checkpoint) -> list[Fold]:
    """Choose the folds of a model folder that are used.

    Args:
        path: the model folder.
        folds: `auto` takes every numbered fold that has the checkpoint, `fold_all` only when it is alone.
        checkpoint: which state of a fold is wanted.

    Raises:
        ModelError: a fold is not there or has no such checkpoint; the hint says how to train it.
    """
    there = list_folds(path)
    usable = [fold for fold in there if _has_checkpoint(path, fold, checkpoint)]
    if folds == "auto":
        chosen = [fold for fold in usable if fold != "all"] or usable
        if not chosen:
            raise _explain_no_fold(path, there, checkpoint)
        return chosen
    for fold in folds:
        if fold not in there:
            listed = ", ".join(map(str, there)) or "none"
            raise ModelError(
                f"model has no fold {fold}, found: {listed}", where=path, hint=suggest_training(path, fold)
            )
        if fold not in usable:
            raise _explain_no_fold(path, [fold], checkpoint)
    return list(dict.fromkeys(folds))


def find_checkpoint(path: Path, fold: Fold, checkpoint: Checkpoint) -> Path:
    """Return the file of a chosen fold."""
    places = [RunPaths(fold_folder(path, fold)).checkpoint(kind) for kind in _kinds(checkpoint)]
    return next(place for place in places if place.is_file())


def list_folds(path: Path) -> list[Fold]:
    """List the folds that a model folder has, finished or not, numbers first."""
    found: list[Fold] = []
    for entry in path.iterdir():
        if entry.is_dir() and (match := _FOLD.match(entry.name)):
            found.append("all" if match[1] == "all" else int(match[1]))
    return sorted(found, key=lambda fold: (fold == "all", 0 if isinstance(fold, str) else fold))


def suggest_training(path: Path, fold: Fold = 0) -> str:
    """Return the command that trains a fold of this model folder; '' when its name does not tell the plan."""
    if path.name.count("__") != NAME_PARTS - 1:
        return ""
    _, plan, configuration = split_folder_name(path)
    ours = _OUR_PLAN.match(plan)
    which = f"--scale {ours[1]}" if ours else f"--plan {plan}"
    which += f" --configuration {configuration}" if configuration != "3d_fullres" else ""
    return f"stu train {path.parent.name} {which} --fold {fold}"


def split_folder_name(path: Path) -> tuple[str, str, str]:
    """Split `<trainer>__<plan>__<configuration>`.

    Raises:
        ModelError: the folder is not named so.
    """
    parts = path.name.split("__")
    if len(parts) != NAME_PARTS:
        raise ModelError(
            f"'{path.name}' is not named '<trainer>__<plan>__<configuration>'",
            where=path.parent,
            hint="give the folder its original name",
        )
    return parts[0], parts[1], parts[2]


def _has_checkpoint(path: Path, fold: Fold, checkpoint: Checkpoint) -> bool:
    return any(RunPaths(fold_folder(path, fold)).checkpoint(kind).is_file() for kind in _kinds(checkpoint))


def _kinds(checkpoint: Checkpoint) -> tuple[str, ...]:
    # A finished fold has no "latest" any more; its final state is its newest.
    return ("final", "latest") if checkpoint == "latest" else (checkpoint,)


def _explain_no_fold(path: Path, there: list[Fold], checkpoint: Checkpoint) -> ModelError:
    for fold in there:
        run = RunPaths(fold_folder(path, fold))
        for kind in ("latest", "best", "final"):
            if kind != checkpoint and run.checkpoint(kind).is_file():
                return ModelError(
                    f"fold {fold} {_describe_progress(run.checkpoint(kind))}, so it cannot be used for prediction"
                    if checkpoint == "final"
                    else f"fold {fold} has no '{checkpoint}' checkpoint, found: {kind}",
                    where=path,
                    hint=", or ".join(filter(None, (suggest_training(path, fold), f"--checkpoint {kind}"))),
                )
    return ModelError("model has no checkpoint yet", where=path, hint=suggest_training(path, there[0] if there else 0))


def _describe_progress(file: Path) -> str:
    from stu_pipeline.nnunet.checkpoint import read_checkpoint  # torch, which a finished folder does without

    checkpoint = read_checkpoint(file, without=("network_weights", *UNUSED_KEYS))
    epoch = checkpoint.get("current_epoch")
    if not isinstance(epoch, int):
        return "is not finished"
    # Only our own checkpoints say how many epochs were wanted.
    settings = (checkpoint.get("stu") or {}).get("settings") or {}
    return f"stopped at epoch {epoch}" + (f" of {settings['num_epochs']}" if "num_epochs" in settings else "")
