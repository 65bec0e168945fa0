"""Further settings of one arm: fields of `PlanConfig` and `TrainConfig` that a study leaves to its arms."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from stu_pipeline.errors import StuError
from stu_pipeline.planning.config import PlanConfig
from stu_pipeline.study.fields import Fields
from stu_pipeline.training.config import TrainConfig

# The study itself decides these, for every arm alike, or they would change what is compared.
_OWN_PLAN_FIELDS = {
    "dataset", "images", "labels", "dataset_name", "channels", "scale", "gpu_memory_gib", "pretrained", "plan_name",
    "configurations", "num_folds", "group_by", "stratify", "probe", "dry_run", "force", "num_workers", "union",
    "union_labels", "keep_labels_of", "keep_channel_names", "sidecar",
}  # fmt: skip
_OWN_TRAIN_FIELDS = {
    "dataset", "fold", "scale", "plan_name", "configuration", "num_epochs", "num_iterations", "precision", "device",
    "resume", "force", "seed", "num_workers", "num_gpus", "shard", "trackers", "pretrained", "recipe", "patience",
    "sidecar",
}  # fmt: skip


def read_plan_options(table: Fields, beside: Path, weights: Path | None) -> dict[str, Any]:
    """Read the fields of `PlanConfig` that an arm sets; paths are beside the manifest.

    Args:
        table: its fields; problems are noted there.
        beside: folder of the manifest.
        weights: that the arm begins with, at any of its scales.
    """
    return _read_options(table, beside, PlanConfig, _OWN_PLAN_FIELDS, {"pretrained": weights})


def read_train_options(table: Fields, beside: Path, weights: Path | None, recipe: str | None) -> dict[str, Any]:
    """Read the fields of `TrainConfig` that an arm sets, its recipe among them."""
    known = {"pretrained": weights, "recipe": recipe}
    options = _read_options(table, beside, TrainConfig, _OWN_TRAIN_FIELDS, known)
    return {**options, **({"recipe": recipe} if recipe else {})}


def _read_options(table: Fields, beside: Path, kind: type[Any], own: set[str], known: dict[str, Any]) -> dict[str, Any]:
    kinds = {field.name: str(field.type) for field in dataclasses.fields(kind) if field.name not in own}
    options: dict[str, Any] = {}
    for key, given in table.raw().items():
        if key not in kinds:
            table.complain(key, f"is not known here, known are: {', '.join(sorted(kinds))}")
            continue
        value = _convert(given, kinds[key], beside)
        if not _fits(value, kinds[key]):
            table.complain(key, f"must be of the kind {kinds[key]}, found '{value}'")
            continue
        options[key] = value
    try:
        kind(dataset="DATASET", **known, **options)
    except StuError as error:
        table.complain("", f"is refused: {error}")
    return options


def _convert(value: Any, kind: str, beside: Path) -> Any:
    """Turn what TOML knows into what a config takes: lists into tuples, texts into paths beside the manifest."""
    if isinstance(value, list):
        return tuple(value)
    if "Path" in kind and isinstance(value, str):
        return (beside / Path(value).expanduser()).absolute()
    return value


def _fits(value: Any, kind: str) -> bool:
    """Tell whether a value can be a field that is annotated so: `float | None`, `tuple[float, ...] | None`."""
    items = re.search(r"tuple\[(\w+)", kind)
    if isinstance(value, tuple):
        return items is not None and all(_fits(item, items[1]) for item in value)
    names = re.sub(r"tuple\[[^]]*\]", "", kind)
    if isinstance(value, bool):
        return "bool" in names
    if isinstance(value, (str, Path)):
        return type(value).__name__ in names or ("Path" in names and isinstance(value, Path))
    return "float" in names or (isinstance(value, int) and "int" in names)
