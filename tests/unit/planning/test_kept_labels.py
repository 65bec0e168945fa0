"""The labels of a trained model, in the order of its outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stu_pipeline.errors import ModelError
from stu_pipeline.planning.kept_labels import read_kept_labels


def write_folder(folder: Path, labels: dict[str, Any], **more: Any) -> Path:
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz", **more}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_a_model_folder_names_its_labels_by_value(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"tumour": 2, "background": 0, "liver": 1, "ignore": 3})
    assert read_kept_labels(folder) == ("liver", "tumour")


def test_regions_cannot_be_kept(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"background": 0, "all": [1, 2], "core": [2]}, regions_class_order=[1, 2])
    with pytest.raises(ModelError, match="knows regions"):
        read_kept_labels(folder)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is no model folder: 'dataset\.json' not found"):
        read_kept_labels(tmp_path)


def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not weights")
    with pytest.raises(ModelError):
        read_kept_labels(path)
