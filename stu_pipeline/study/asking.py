"""What a cell is asked for: the training, and everything else that decides its result."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from stu_pipeline.planning.config import PlanConfig
from stu_pipeline.records import describe
from stu_pipeline.storage import hash_file
from stu_pipeline.study.cells import Cell
from stu_pipeline.study.manifest import Manifest
from stu_pipeline.study.prepare import find_plan_arm, make_plan_config
from stu_pipeline.training.config import TrainConfig

# They decide how fast or how safely a cell runs, not what it comes to.
_NO_RESULT = ("num_workers", "force", "resume", "checkpoint_minutes", "trackers", "fold", "dataset", "device")


def make_train_config(manifest: Manifest, cell: Cell, *, fold: int, force: bool = False) -> TrainConfig:
    """Return how a cell is trained.

    Args:
        manifest: of the study.
        cell: which.
        fold: the number of its split in `splits_final.json`.
        force: begin anew, whatever is there.
    """
    arm, budget = manifest.find_arm(cell.arm), manifest.budget
    options: dict[str, Any] = {}
    weights = arm.weights.get(cell.scale) if cell.scale is not None else None
    if weights is None:
        options["learning_rate"] = budget.learning_rate
    else:
        options["pretrained"] = weights
        if budget.fine_tuning_learning_rate is not None:
            options["learning_rate"] = budget.fine_tuning_learning_rate
    return TrainConfig(
        dataset=str(manifest.find_dataset(cell.dataset).raw),
        fold=fold,
        plan_name=cell.plan_name,
        configuration=manifest.configuration,
        num_epochs=budget.num_epochs,
        num_iterations=budget.num_iterations,
        precision=budget.precision,
        device=budget.device,
        seed=cell.split.seed,
        num_workers=budget.num_workers,
        force=force,
        resume="never" if force else "auto",
        trackers=(),
        **{**options, **arm.train},
    )


def describe_asked(manifest: Manifest, cell: Cell) -> dict[str, Any]:
    """Return everything that decides the result of a cell, as JSON values."""
    arm, dataset, curve = manifest.find_arm(cell.arm), manifest.find_dataset(cell.dataset), manifest.curve
    training = _keep_chosen(make_train_config(manifest, cell, fold=0), TrainConfig(dataset=""))
    plan_weights = find_plan_arm(manifest, cell.arm).weights.get(cell.scale) if cell.scale else None
    weights = arm.weights.get(cell.scale) if cell.scale else None
    return {
        "dataset": cell.dataset,
        "split": cell.split.name,
        "cases": sorted(dataset.case_ids),
        # Not the numbers of training cases: more of them change no cell that is there.
        "validation": None if curve is None else [curve.num_validation_cases, curve.seed, dataset.group_by],
        "training": {key: value for key, value in training.items() if key not in _NO_RESULT}
        | ({"pretrained": _hash_once(weights)} if weights else {}),
        "plan": _describe_plan(manifest, cell),
        "plan_weights": plan_weights and _hash_once(plan_weights),
        "tolerance_mm": manifest.budget.tolerance_mm,
    }


def _describe_plan(manifest: Manifest, cell: Cell) -> dict[str, Any]:
    arm = manifest.find_arm(cell.arm)
    if not arm.is_stu:
        return {"kind": arm.kind, "preset": arm.preset}
    config = _keep_chosen(make_plan_config(manifest, cell), PlanConfig(dataset="x"))
    return {key: value for key, value in config.items() if key not in ("dataset", "num_workers", "pretrained")}


def _keep_chosen(config: Any, default: Any) -> dict[str, Any]:
    """Return what differs from the defaults: a field that a later version adds changes no cell."""
    chosen, plain = describe(config), describe(default)
    return {key: value for key, value in chosen.items() if value != plain[key]}


@functools.cache
def _hash_once(path: Path) -> str:
    return hash_file(path)
