"""Files of weights of a tiny STU-Net, and a dataset whose plan takes them: scale S is made narrow for a test."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stu_pipeline.networks.scales import SCALES, ScaleSpec
from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.workspace import DatasetPaths
from tests.planned import CONFIGURATION, PLAN_NAME, write_planned_dataset

WIDTH = 4
STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 1, 1), (1, 1, 1), (1, 1, 1))
PRELUDE = """
import dataclasses
from stu_pipeline.networks.scales import SCALES
SCALES["S"] = dataclasses.replace(SCALES["S"], width=4)
"""
"""The same in a process that `tests/training_runs.py` starts."""


def make_narrow_scale() -> ScaleSpec:
    """Return scale S with a quarter of its width, for `monkeypatch.setitem(SCALES, "S", ...)`."""
    return dataclasses.replace(SCALES["S"], width=WIDTH)


def narrow_plan(plan: dict[str, Any]) -> None:
    """Make the network of a plan the narrow scale S."""
    plan["stu"]["scale"] = "S"
    plan["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"] |= {
        "features_per_stage": [WIDTH * factor for factor in (1, 2, 4, 8, 16, 16)],
        "n_blocks_per_stage": [1] * 6,
        "strides": [list(stride) for stride in STRIDES],
    }


def write_narrow_dataset(root: Path) -> DatasetPaths:
    """Write `Dataset901_Tiny` (background, low, high; channel CT) with a narrow plan; nothing is preprocessed."""
    dataset = write_planned_dataset(root, num_cases=1)
    edit_plan(dataset, narrow_plan)
    shutil.copy(dataset.dataset_json, dataset.preprocessed_dataset_json)
    return dataset


def edit_plan(dataset: DatasetPaths, edit: Any, *, name: str = PLAN_NAME) -> None:
    """Change a plan; another name makes a copy of the usual one."""
    plan = json.loads(dataset.plan_file(PLAN_NAME).read_text(encoding="utf-8"))
    edit(plan)
    plan["plans_name"] = name
    dataset.plan_file(name).write_text(json.dumps(plan), encoding="utf-8")


def write_weights(
    path: Path,
    *,
    labels: Mapping[str, int] | None = None,
    strides: Sequence[Sequence[int]] = STRIDES,
    channels: Sequence[str] = ("CT",),
    schemes: Sequence[str] = ("CTNormalization",),
    width: int = WIDTH,
    seed: int = 7,
) -> dict[str, torch.Tensor]:
    """Write a checkpoint of nnU-Net v2 with a narrow network, and return its weights."""
    labels = labels or {"background": 0, "high": 1, "other": 2}
    features = [width * factor for factor in (1, 2, 4, 8, 16, 16)]
    torch.manual_seed(seed)
    network = STUNet(len(channels), len(labels), strides, features, 1, "3d")
    network.apply(network.initialize)
    architecture = {
        "network_class_name": "stu_pipeline.networks.stunet.STUNet",
        "arch_kwargs": {"strides": [list(stride) for stride in strides]},
    }
    configuration = {
        "spacing": [1.5, 1.5, 1.5],
        "patch_size": [16, 16, 16],
        "normalization_schemes": list(schemes),
        "use_mask_for_norm": [False] * len(schemes),
        "architecture": architecture,
    }
    plans = {
        "dataset_name": "Dataset902_Source",
        "transpose_forward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
    }
    dataset_json = {"labels": dict(labels), "channel_names": {str(i): name for i, name in enumerate(channels)}}
    weights = network.state_dict()
    torch.save(
        {
            "network_weights": weights,
            "trainer_name": "nnUNetTrainer",
            "current_epoch": 10,
            "init_args": {"plans": plans, "configuration": CONFIGURATION, "fold": 0, "dataset_json": dataset_json},
        },
        path,
    )
    return weights
