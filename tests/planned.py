"""A dataset with a plan beside it, written by hand: what preprocessing starts from, without planning (or torch)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stu_pipeline.workspace import DatasetPaths, find_dataset, use_workspace
from tests.synthetic import make_image, make_label_map, write_dataset_json, write_volume

PLAN_NAME = "stuSPlans"
CONFIGURATION = "3d_fullres"
IDENTIFIER = "nnUNetPlans_3d_fullres"
_REFERENCE = Path(__file__).parents[1] / "plans" / "reference" / "large_ct" / "plan.json"


def write_planned_dataset(
    root: Path,
    *,
    num_cases: int = 3,
    shape: Sequence[int] = (12, 14, 16),
    label_ids: Sequence[int] = (0, 1, 2),
    target_mm: Sequence[float] = (1.5, 1.0, 1.0),
    seed: int = 0,
) -> DatasetPaths:
    """Write `Dataset901_Tiny` and the plan `stuSPlans` below `root` (a `STU_WORKSPACE`); cases get larger one by one.

    Args:
        root: holds the three nnU-Net folders.
        num_cases: `case_000`, `case_001`, ...
        shape: of the smallest case; each further one has one slice more.
        label_ids: what the label files hold for background and two boxes.
        target_mm: planned spacing; the cases have (2, 1, 1).
        seed: of noise and positions.
    """
    folder = root / "nnUNet_raw" / "Dataset901_Tiny"
    for index in range(num_cases):
        write_raw_case(folder, index, shape=(shape[0] + index, *shape[1:]), label_ids=label_ids, seed=seed)
    write_description(folder, num_cases=num_cases, label_ids=label_ids)
    with use_workspace(root):
        dataset = find_dataset(str(folder))
    write_plan(dataset, spacing=list(target_mm))
    return dataset


def write_raw_case(
    folder: Path,
    index: int,
    *,
    shape: Sequence[int] = (12, 14, 16),
    label_ids: Sequence[int] = (0, 1, 2),
    seed: int = 0,
) -> None:
    """Write the image and the label map of one case."""
    generator = np.random.default_rng([seed, index])
    labels = make_label_map(shape, num_labels=2, generator=generator)
    image = make_image(labels, generator=generator)
    write_volume(folder / "imagesTr" / f"case_{index:03d}_0000.nii.gz", image, spacing_mm=(2, 1, 1))
    stored = np.array(label_ids, dtype=np.uint16)[labels]
    write_volume(folder / "labelsTr" / f"case_{index:03d}.nii.gz", stored, spacing_mm=(2, 1, 1))


def write_description(folder: Path, *, num_cases: int, label_ids: Sequence[int] = (0, 1, 2)) -> None:
    """Write `dataset.json`."""
    write_dataset_json(
        folder,
        channel_names={"0": "CT"},
        labels={name: int(value) for name, value in zip(("background", "low", "high"), label_ids, strict=True)},
        numTraining=num_cases,
        file_ending=".nii.gz",
    )


def write_plan(dataset: DatasetPaths, plan_name: str = PLAN_NAME, **changes: Any) -> None:
    """Write a plan; `changes` go into its 3d_fullres configuration."""
    plan = json.loads(_REFERENCE.read_text(encoding="utf-8"))
    plan |= {"dataset_name": dataset.name, "plans_name": plan_name}
    plan["configurations"][CONFIGURATION] |= {"patch_size": [16, 16, 16], **changes}
    dataset.preprocessed.mkdir(parents=True, exist_ok=True)
    dataset.plan_file(plan_name).write_text(json.dumps(plan), encoding="utf-8")
