"""Write a model folder of weights, and prove it: what was written is read back and compared with its plan.

Writes: `plans.json`, `dataset.json`, `fold_0/checkpoint_final.pth` of a staged model folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.nnunet.checkpoint import read_checkpoint, write_checkpoint
from stu_pipeline.nnunet.model import open_engine_model
from stu_pipeline.nnunet.settings import SETTINGS_KEY
from stu_pipeline.storage import write_json
from stu_pipeline.transfer.packages.model_check import (
    DATASET_FILE,
    PLAN_FILE,
    read_model_json,
    require_fitting_checkpoint,
)
from stu_pipeline.workspace import TRAINER_NAME, RunPaths, fold_folder

_CHECKPOINT_SCHEMA = 2


def write_model(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    plan: dict[str, Any],
    dataset_json: dict[str, Any],
    configuration: str,
    mirroring: Mirroring,
    fold: int | str = 0,
    num_epochs: int | None = None,
) -> Path:
    """Write a model folder with one fold that ours and stock nnU-Net predict with, and return its checkpoint.

    The tensors go to the disk as they are, without a second copy in memory.

    Args:
        folder: a staged one.
        tensors: in our key names.
        plan: becomes `plans.json`.
        dataset_json: becomes `dataset.json`.
        configuration: of the plan.
        mirroring: what a prediction may average.
        fold: number of the fold, or 'all'.
        num_epochs: how long it was trained; None when it is not known.

    Raises:
        ModelError: plan, description and weights do not fit each other.
        NonFiniteError: a weight is NaN or infinite.
        StorageError: the disk is full or not writable.
    """
    model = open_engine_model(plan, dataset_json, configuration, where=folder / PLAN_FILE)
    checkpoint = RunPaths(fold_folder(folder, fold)).checkpoint("final")
    content = _make_checkpoint(
        tensors,
        plan=plan,
        dataset_json=dataset_json,
        configuration=configuration,
        mirroring=mirroring,
        fold=fold,
        num_epochs=num_epochs,
    )
    require_fitting_checkpoint(content, model, checkpoint)
    write_json(folder / PLAN_FILE, plan)
    write_json(folder / DATASET_FILE, dataset_json)
    write_checkpoint(checkpoint, content)
    # Every byte is compared with its checksum, and every value is looked at; the weights stay on the disk.
    read_checkpoint(checkpoint, without=("network_weights",))
    open_engine_model(
        read_model_json(folder / PLAN_FILE),
        read_model_json(folder / DATASET_FILE),
        configuration,
        where=folder / PLAN_FILE,
    )
    return checkpoint


def _make_checkpoint(
    tensors: Mapping[str, torch.Tensor],
    *,
    plan: dict[str, Any],
    dataset_json: dict[str, Any],
    configuration: str,
    mirroring: Mirroring,
    fold: int | str,
    num_epochs: int | None,
) -> dict[str, Any]:
    """Return a checkpoint with stock nnU-Net's keys, and without momentum."""
    return {
        "network_weights": dict(tensors),
        "optimizer_state": {"state": {}, "param_groups": []},
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": None,
        "current_epoch": num_epochs or 0,
        "init_args": {
            "plans": plan,
            "configuration": configuration,
            "fold": fold,
            "dataset_json": dataset_json,
            "device": torch.device("cpu"),
        },
        "trainer_name": TRAINER_NAME,
        # nnU-Net takes None where nothing is mirrored, not ().
        "inference_allowed_mirroring_axes": mirroring.plain_axes or None,
        SETTINGS_KEY: {"schema": _CHECKPOINT_SCHEMA, "mirroring": mirroring.to_json()},
    }
