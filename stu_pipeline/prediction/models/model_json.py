"""The two JSON files of a model folder, read without torch.

Reads: `plans.json`, `dataset.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_json import DatasetJson
from stu_pipeline.errors import DataError, ModelError
from stu_pipeline.nnunet.model_dataset import parse_model_dataset
from stu_pipeline.storage import read_json

PLAN_FILE = "plans.json"
DATASET_FILE = "dataset.json"
RULES_FILE = "postprocessing.json"
"""Learned post-processing."""


def read_model_dataset(path: Path) -> DatasetJson:
    """Read what a model folder was trained on.

    Raises:
        ModelError: it is no model folder, or its `dataset.json` cannot be used.
    """
    require_model_folder(path)
    return parse_model_dataset(read_model_json(path / DATASET_FILE), path / PLAN_FILE)


def require_model_folder(path: Path) -> None:
    """Refuse what is not a model folder, and say what is there.

    Raises:
        ModelError: it is not there, or its JSON files are not.
    """
    if not path.is_dir():
        near = path.parent
        found = sorted(entry.name for entry in near.iterdir() if entry.is_dir()) if near.is_dir() else []
        listed = f", found: {', '.join(found[:8])}" if found else ""
        raise ModelError(f"model folder '{path.name}' not found{listed}", where=near)
    missing = [name for name in (PLAN_FILE, DATASET_FILE) if not (path / name).is_file()]
    if not missing:
        return
    inside = sorted(entry.name for entry in path.iterdir() if (entry / PLAN_FILE).is_file())
    raise ModelError(
        f"'{path.name}' is not a model folder, missing: {', '.join(missing)}",
        where=path,
        hint=f"give one of the folders in it: {', '.join(inside[:8])}"
        if inside
        else "give the folder that holds fold_0",
    )


def read_model_json(path: Path) -> dict[str, Any]:
    """Read an object from a JSON file of a model folder.

    Raises:
        ModelError: missing, damaged, or not an object.
    """
    try:
        content = read_json(path)
    except DataError as error:
        raise ModelError(error.problem, where=error.where) from error
    if not isinstance(content, dict):
        raise ModelError(f"'{path.name}' must hold an object", where=path)
    return content
