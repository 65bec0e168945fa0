"""Find and open model folders: their plan, their weights, and the stage before a cascade.

Reads: `plans.json`, `dataset.json` and `fold_*/checkpoint_*.pth`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.nnunet.checkpoint import read_checkpoint
from stu_pipeline.nnunet.checkpoint_identity import identify_checkpoint
from stu_pipeline.nnunet.model import EngineModel, open_engine_model
from stu_pipeline.nnunet.settings import SETTINGS_KEY
from stu_pipeline.prediction.config import Checkpoint, Folds
from stu_pipeline.prediction.models.folds import (
    UNUSED_KEYS,
    Fold,
    choose_folds,
    find_checkpoint,
    list_folds,
    split_folder_name,
    suggest_training,
)
from stu_pipeline.prediction.models.model_json import DATASET_FILE, PLAN_FILE, read_model_json, require_model_folder
from stu_pipeline.workspace import RunPaths, fold_folder

_RAM_SHARE = 0.25


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FoldWeights:
    """The weights of one fold."""

    fold: Fold
    path: Path
    identity: str
    """Changes with the content of the checkpoint."""
    kept: Mapping[str, Any] | None
    """None when there is too little RAM to keep the weights of all folds."""
    mirroring: Mirroring
    """What its training mirrored; a stock model's first fold speaks for all."""

    def load(self) -> Mapping[str, Any]:
        """Return the weights, from the checkpoint when they were not kept."""
        if self.kept is not None:
            return self.kept
        weights: Mapping[str, Any] = read_checkpoint(self.path, without=UNUSED_KEYS)["network_weights"]
        return weights


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ModelFolder:
    """An opened model folder: its plan and the folds that will be used."""

    path: Path
    model: EngineModel
    folds: tuple[FoldWeights, ...]
    checkpoint: Checkpoint
    notices: tuple[str, ...] = ()
    """What the user should know, for example an unfinished fold in use."""
    previous: ModelFolder | None = None
    """The stage before a cascade."""

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """The axes that the first fold mirrors."""
        return self.folds[0].mirroring.axes

    @property
    def summary(self) -> str:
        """One line: folder, folds and checkpoint."""
        folds = ",".join(str(item.fold) for item in self.folds)
        return f"{self.path.name} folds {folds} ({self.checkpoint})"

    @property
    def plan_file(self) -> Path:
        """`plans.json`."""
        return self.path / PLAN_FILE

    @property
    def dataset_file(self) -> Path:
        """`dataset.json`."""
        return self.path / DATASET_FILE

    def describe_masks(self) -> bytes:
        """Return the `dataset.json` that fits the masks: the model's own, with the ids they are written with."""
        dataset = self.model.dataset
        if dataset.label_ids is None:
            return self.dataset_file.read_bytes()
        return (json.dumps(dataset.describe_original(), indent=2, ensure_ascii=False) + "\n").encode()


def open_model_folder(
    path: Path, folds: Folds = "auto", checkpoint: Checkpoint = "final", *, configuration: str | None = None
) -> ModelFolder:
    """Open a model folder of ours or of stock nnU-Net, every checkpoint verified.

    Args:
        path: the folder that holds `plans.json` and `fold_*`.
        folds: `auto` takes every numbered fold that has the checkpoint, `fold_all` only when it is alone.
        checkpoint: `final`; `best`; `ema`, averaged weights; or `latest`, the newest state, finished or not.
        configuration: what the model must be of; None takes what it is.

    Raises:
        ModelError: no such folder, no usable fold, damaged or foreign checkpoints, or a cascade without its
            previous stage.
        UsageError: the model is of another configuration.
    """
    require_model_folder(path)
    chosen = choose_folds(path, folds, checkpoint)
    files = {fold: find_checkpoint(path, fold, checkpoint) for fold in chosen}
    loaded = _read_folds(files)
    name = _read_configuration(loaded, files)
    if configuration is not None and name != configuration:
        raise UsageError(f"model is of configuration '{name}', not '{configuration}'", where=path)
    plan, dataset = read_model_json(path / PLAN_FILE), read_model_json(path / DATASET_FILE)
    model = open_engine_model(plan, dataset, name, where=path / PLAN_FILE)
    return ModelFolder(
        path=path,
        model=model,
        folds=_make_folds(files, loaded, model),
        checkpoint=checkpoint,
        notices=_list_notices(path, chosen, files, loaded, is_auto=folds == "auto"),
        previous=_open_previous(path, model, chosen, checkpoint),
    )


def _make_folds(
    files: Mapping[Fold, Path], loaded: Mapping[Fold, dict[str, Any]], model: EngineModel
) -> tuple[FoldWeights, ...]:
    first = next(iter(files))
    stock = _read_mirror_axes(loaded[first], model, files[first])
    return tuple(
        FoldWeights(
            fold=fold,
            path=file,
            identity=identify_checkpoint(file),
            kept=loaded[fold].get("network_weights"),
            mirroring=_read_mirroring(loaded[fold], model, file) or Mirroring(axes=stock),
        )
        for fold, file in files.items()
    )


def _read_folds(files: Mapping[Fold, Path]) -> dict[Fold, dict[str, Any]]:
    """Read and verify every checkpoint; beyond a share of the RAM the weights are dropped again."""
    budget = measure_ram_bytes() * _RAM_SHARE
    loaded: dict[Fold, dict[str, Any]] = {}
    for fold, file in files.items():
        checkpoint = read_checkpoint(file, without=UNUSED_KEYS)
        budget -= sum(tensor.nbytes for tensor in checkpoint["network_weights"].values())
        if loaded and budget < 0:
            del checkpoint["network_weights"]
        loaded[fold] = checkpoint
    return loaded


def measure_ram_bytes() -> int:
    """Return the machine's RAM."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _read_configuration(loaded: Mapping[Fold, dict[str, Any]], files: Mapping[Fold, Path]) -> str:
    names = {}
    for fold, checkpoint in loaded.items():
        arguments = checkpoint["init_args"]
        name = arguments.get("configuration") if isinstance(arguments, dict) else None
        if not isinstance(name, str):
            raise ModelError("checkpoint does not say its configuration", where=files[fold])
        names[fold] = name
    if len(set(names.values())) > 1:
        listed = ", ".join(f"fold {fold} is {name}" for fold, name in names.items())
        raise ModelError(
            f"folds are of different configurations: {listed}", where=next(iter(files.values())).parents[1]
        )
    return next(iter(names.values()))


def _read_mirror_axes(checkpoint: Mapping[str, Any], model: EngineModel, file: Path) -> tuple[int, ...]:
    axes = checkpoint.get("inference_allowed_mirroring_axes") or ()
    num_axes = len(model.patch_voxels)
    if not isinstance(axes, (list, tuple)) or any(axis not in range(num_axes) for axis in axes):
        raise ModelError(f"checkpoint mirrors the axes '{axes}', the network has {num_axes}", where=file)
    return tuple(sorted({int(axis) for axis in axes}))


def _read_mirroring(checkpoint: Mapping[str, Any], model: EngineModel, file: Path) -> Mirroring | None:
    """Read our own entry, which also says what swaps; None where there is none."""
    own = checkpoint.get(SETTINGS_KEY)
    if not isinstance(own, dict) or "mirroring" not in own:
        return None
    mirroring = Mirroring.from_json(own["mirroring"], where=file)
    num_axes = len(model.patch_voxels)
    if any(axis >= num_axes for axis in mirroring.axes):
        raise ModelError(
            f"checkpoint mirrors the axes '{list(mirroring.axes)}', the network has {num_axes}", where=file
        )
    return mirroring


def _list_notices(
    path: Path, chosen: list[Fold], files: Mapping[Fold, Path], loaded: Mapping[Fold, dict[str, Any]], *, is_auto: bool
) -> tuple[str, ...]:
    notices = []
    for fold in chosen:
        if not RunPaths(fold_folder(path, fold)).checkpoint("final").is_file():
            epoch = loaded[fold].get("current_epoch")
            notices.append(f"fold {fold} is not finished; its {files[fold].name} is of epoch {epoch}")
    left_out = [fold for fold in list_folds(path) if fold not in (*chosen, "all")] if is_auto else []
    if left_out:
        notices.append(f"left out of '{path.name}': fold {', '.join(map(str, left_out))}")
    return tuple(notices)


def _open_previous(path: Path, model: EngineModel, folds: list[Fold], checkpoint: Checkpoint) -> ModelFolder | None:
    stage = model.previous_stage
    if stage is None:
        return None
    trainer, plan, _ = split_folder_name(path)
    sibling = path.with_name(f"{trainer}__{plan}__{stage}")
    if not sibling.is_dir():
        raise ModelError(
            f"the cascade needs its previous stage, '{sibling.name}' not found",
            where=path.parent,
            hint=suggest_training(sibling, folds[0]),
        )
    previous = open_model_folder(sibling, tuple(folds), checkpoint)  # type: ignore[arg-type]  # int or "all"
    if previous.model.dataset.labels != model.dataset.labels or (
        previous.model.dataset.label_ids != model.dataset.label_ids
    ):
        raise ModelError(f"the previous stage '{sibling.name}' has other labels than the cascade", where=path.parent)
    return previous
