"""Write a model, or a file of weights, in a form that others take.

Reads: a model folder, `.model`, `.pth` or `.safetensors`. Writes: one package.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.log import Listener, ignore_events
from stu_pipeline.nnunet.checkpoint import read_checkpoint
from stu_pipeline.nnunet.settings import SETTINGS_KEY
from stu_pipeline.storage import hash_file, storage_errors
from stu_pipeline.transfer.files.reading import read_weight_file
from stu_pipeline.transfer.packages.archive_contents import MODEL_NAME
from stu_pipeline.transfer.packages.config import ExportConfig, ExportResult, Fold
from stu_pipeline.transfer.packages.model_check import (
    DATASET_FILE,
    PLAN_FILE,
    CheckedModel,
    check_model_folder,
    read_configuration,
    read_model_json,
)
from stu_pipeline.transfer.packages.tensor_files import write_published, write_safetensors
from stu_pipeline.transfer.packages.zip_writing import PackedModel, write_model_zip
from stu_pipeline.workspace import TRAINER_NAME, RunPaths, fold_folder, split_dataset_name

_FOLD = re.compile(r"fold_(\d+|all)\Z")


def export_weights(config: ExportConfig, *, listen: Listener = ignore_events) -> ExportResult:
    """Write a package, and read it back before it gets its name.

    Args:
        config: what is written, and in which form.
        listen: receives `Progress` events.

    Raises:
        ModelError: the source is damaged, or has no such fold, or the form cannot hold it.
        NonFiniteError: a weight is NaN or infinite.
        UsageError: the output is there already, or the form does not fit the source.
        StorageError: the disk is full or not writable.
    """
    form = config.chosen_form
    _require_absent(config)
    if not config.source.is_dir():
        if form == "nnunet-zip":
            raise UsageError(
                "nnU-Net's zip holds model folders, not files of weights",
                where=config.source,
                hint=f"stu weights convert {config.source}",
            )
        return _export_file(config)
    folds = _choose_folds(config)
    if form == "nnunet-zip":
        return _export_zip(config, folds, listen)
    return _export_fold(config, folds)


def _export_file(config: ExportConfig) -> ExportResult:
    weights = read_weight_file(config.source, sidecar=config.sidecar)
    if config.chosen_form == "published":
        files = write_published(config.output, weights)
    else:
        files = write_safetensors(config.output, weights, model=None)
    return _describe(config, files, folds=(0,))


def _export_fold(config: ExportConfig, folds: Sequence[Fold]) -> ExportResult:
    """Write the weights of one fold."""
    if len(folds) != 1:
        raise UsageError(
            f"a file of weights holds one fold, the model has {', '.join(map(str, folds))}",
            where=config.source,
            hint=f"--folds {folds[0]}, or all of them with --form nnunet-zip -o model.zip",
        )
    # Before the weights are read, so that they are in memory once.
    model = _describe_model(config, folds[0])
    weights = read_weight_file(_checkpoint_of(config, folds[0]))
    if config.chosen_form == "published":
        files = write_published(config.output, weights)
    else:
        files = write_safetensors(config.output, weights, model=model)
    return _describe(config, files, folds=folds)


def _export_zip(config: ExportConfig, folds: Sequence[Fold], listen: Listener) -> ExportResult:
    checkpoints = tuple(_checkpoint_of(config, fold) for fold in folds)
    checked = check_model_folder(config.source, checkpoints=checkpoints)
    model = PackedModel(folder=config.source, name=_name_model(checked), checkpoints=checkpoints)
    write_model_zip(config.output, model, keep_optimizer=config.keep_optimizer, listen=listen)
    return _describe(config, (config.output,), folds=folds)


def _choose_folds(config: ExportConfig) -> tuple[Fold, ...]:
    """Return the folds that are written; numbered ones, or 'all' where it is alone, when none are asked for."""
    found: list[Fold] = []
    for entry in sorted(config.source.iterdir()):
        if (match := _FOLD.match(entry.name)) and _file_of(entry, config).is_file():
            found.append("all" if match[1] == "all" else int(match[1]))
    wanted = config.folds or tuple(fold for fold in found if fold != "all") or tuple(found)
    missing = [fold for fold in wanted if fold not in found]
    if missing or not wanted:
        listed = ", ".join(map(str, found)) or "none"
        raise ModelError(
            f"model has no {config.checkpoint} checkpoint of fold {', '.join(map(str, missing)) or '0'}, found: "
            f"{listed}",
            where=config.source,
            hint="give the folder that holds plans.json and fold_0" if not found else f"--folds {listed}",
        )
    return tuple(sorted(set(wanted), key=lambda fold: (fold == "all", fold if isinstance(fold, int) else 0)))


def _describe_model(config: ExportConfig, fold: Fold) -> dict[str, Any]:
    """Collect what the model folder is made of again."""
    checkpoint = _checkpoint_of(config, fold)
    checked = check_model_folder(config.source, checkpoints=(checkpoint,))
    content = read_checkpoint(checkpoint, without=("network_weights", "optimizer_state", "grad_scaler_state"))
    own = content.get(SETTINGS_KEY)
    mirroring = own.get("mirroring") if isinstance(own, dict) else None
    dataset, _, folder = _name_model(checked).partition("/")
    return {
        "dataset": dataset,
        "folder": folder,
        "fold": fold,
        "configuration": read_configuration(content, checkpoint),
        "mirroring": mirroring or {"axes": list(content.get("inference_allowed_mirroring_axes") or ())},
        "num_epochs": content.get("current_epoch"),
        "plans": read_model_json(config.source / PLAN_FILE),
        "dataset_json": read_model_json(config.source / DATASET_FILE),
    }


def _name_model(checked: CheckedModel) -> str:
    """Name a model as it lies among results; the plan says it where the folder is called otherwise."""
    folder = checked.folder.absolute()
    dataset = folder.parent.name
    if split_dataset_name(dataset) is None:
        dataset = str(checked.plan.get("dataset_name"))
    name = folder.name
    configuration = checked.model.configuration_name
    if not MODEL_NAME.match(name) or not name.endswith(f"__{configuration}"):
        name = f"{TRAINER_NAME}__{checked.plan.get('plans_name')}__{configuration}"
    if split_dataset_name(dataset) is None or not MODEL_NAME.match(name):
        raise ModelError(
            f"neither the folder nor its plan says of which dataset the model is ('{dataset}/{name}')",
            where=checked.folder,
            hint="put it into a folder named DatasetNNN_Name",
        )
    return f"{dataset}/{name}"


def _require_absent(config: ExportConfig) -> None:
    with storage_errors(config.output):
        is_there = config.output.exists()
    if is_there and not config.overwrite:
        raise UsageError(
            f"'{config.output.name}' is there already", where=config.output.parent, hint="--overwrite replaces it"
        )
    if not config.source.exists():
        raise ModelError(f"'{config.source.name}' not found", where=config.source.parent)


def _checkpoint_of(config: ExportConfig, fold: Fold) -> Path:
    return _file_of(fold_folder(config.source, fold), config)


def _file_of(folder: Path, config: ExportConfig) -> Path:
    return RunPaths(folder).checkpoint(config.checkpoint)


def _describe(config: ExportConfig, files: Sequence[Path], *, folds: Sequence[Fold]) -> ExportResult:
    return ExportResult(
        files=tuple(files),
        form=config.chosen_form,
        folds=tuple(folds),
        sha256={file.name: hash_file(file) for file in files},
    )
