"""What lies beside the folds of a model: the plan, the dataset's description and its fingerprint.

Writes: `plans.json`, `dataset.json`, `dataset_fingerprint.json` of a model folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stu_pipeline.errors import DataError
from stu_pipeline.storage import read_json, write_json


def write_model_files(folder: Path, *, plan: dict[str, Any], dataset_json: dict[str, Any], fingerprint: Path) -> None:
    """Write what a prediction needs beside the weights; what is there already and says the same stays untouched.

    nnU-Net writes them in place at every start: a full disk, or a kill, would then take the finished folds along.

    Args:
        folder: the model folder.
        plan: becomes `plans.json`.
        dataset_json: becomes `dataset.json`.
        fingerprint: is copied where it exists; nothing reads the copy.

    Raises:
        StorageError: the disk is full or not writable; what was there is untouched.
    """
    _write_where_new(folder / "plans.json", plan)
    _write_where_new(folder / "dataset.json", dataset_json)
    if fingerprint.is_file():
        _write_where_new(folder / "dataset_fingerprint.json", read_json(fingerprint))


def _write_where_new(path: Path, content: dict[str, Any]) -> None:
    try:
        if read_json(path) == content:
            return
    except DataError:
        pass  # missing or damaged
    write_json(path, content)
