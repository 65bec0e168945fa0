"""Whether a folder is a model that predicts: closed lists of names, sound weights, and a network they fit.

Reads: `plans.json`, `dataset.json` and `fold_*/checkpoint_*.pth`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stu_pipeline.datasets.dataset_json import read_strict_json
from stu_pipeline.errors import DataError, ModelError
from stu_pipeline.nnunet.checkpoint import read_checkpoint
from stu_pipeline.nnunet.model import EngineModel, build_empty_network, open_engine_model, require_fitting_weights

PLAN_FILE = "plans.json"
DATASET_FILE = "dataset.json"
OPTIMIZER_KEYS = ("optimizer_state", "grad_scaler_state")
_CHECKPOINT = re.compile(r"checkpoint_(?:final|best|latest|ema)\.pth\Z")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CheckedModel:
    """A model folder whose files fit each other."""

    folder: Path
    model: EngineModel
    checkpoints: tuple[Path, ...]
    plan: dict[str, Any]
    dataset_json: dict[str, Any]


def check_model_folder(folder: Path, *, checkpoints: Sequence[Path] | None = None) -> CheckedModel:
    """Check every file of a model folder that a prediction would use, one checkpoint in memory at a time.

    Args:
        folder: holds `plans.json`, `dataset.json` and `fold_*`.
        checkpoints: those that matter; None takes all.

    Raises:
        ModelError: files are missing or damaged, name code, or do not fit each other.
        NonFiniteError: a weight is NaN or infinite.
    """
    checkpoints = list_checkpoints(folder) if checkpoints is None else tuple(checkpoints)
    if not checkpoints:
        raise ModelError("model has no checkpoint", where=folder)
    plan, dataset_json = read_model_json(folder / PLAN_FILE), read_model_json(folder / DATASET_FILE)
    model: EngineModel | None = None
    for path in checkpoints:
        content = read_checkpoint(path, without=OPTIMIZER_KEYS)
        configuration = read_configuration(content, path)
        if model is None:
            model = open_engine_model(plan, dataset_json, configuration, where=folder / PLAN_FILE)
        elif configuration != model.configuration_name:
            raise ModelError(
                f"checkpoints are of the configurations '{model.configuration_name}' and '{configuration}'", where=path
            )
        require_fitting_checkpoint(content, model, path)
    if model is None:
        raise ModelError("model has no checkpoint", where=folder)
    return CheckedModel(folder=folder, model=model, checkpoints=checkpoints, plan=plan, dataset_json=dataset_json)


def list_checkpoints(folder: Path) -> tuple[Path, ...]:
    """List the checkpoints of all folds by path; none when the folder is missing."""
    found = folder.glob("fold_*/checkpoint_*.pth") if folder.is_dir() else ()
    return tuple(sorted(path for path in found if _CHECKPOINT.match(path.name) and path.is_file()))


def require_fitting_checkpoint(content: Mapping[str, Any], model: EngineModel, path: Path) -> None:
    """Build the network of a plan without memory and compare it with the weights of a checkpoint.

    Raises:
        ModelError: they do not fit, or the mirrored axes are none of the network's.
    """
    with torch.device("meta"):
        network = build_empty_network(model)
    require_fitting_weights(network, content["network_weights"], path)
    axes = content.get("inference_allowed_mirroring_axes") or ()
    num_axes = len(model.patch_voxels)
    if not isinstance(axes, (list, tuple)) or any(axis not in range(num_axes) for axis in axes):
        raise ModelError(f"checkpoint mirrors the axes '{axes}', the network has {num_axes}", where=path)


def read_configuration(content: Mapping[str, Any], path: Path) -> str:
    """Return the configuration that a checkpoint was trained in.

    Raises:
        ModelError: it does not say.
    """
    arguments = content.get("init_args")
    name = arguments.get("configuration") if isinstance(arguments, dict) else None
    if not isinstance(name, str):
        raise ModelError("checkpoint does not say its configuration", where=path)
    return name


def read_model_json(path: Path) -> dict[str, Any]:
    """Read an object of a model folder from strict JSON.

    Raises:
        ModelError: missing, damaged, ambiguous, or not an object.
    """
    try:
        content = read_strict_json(path)
    except DataError as error:
        raise ModelError(error.problem, where=error.where, details=error.details) from error
    if not isinstance(content, dict):
        raise ModelError(f"'{path.name}' must hold an object", where=path)
    return content
