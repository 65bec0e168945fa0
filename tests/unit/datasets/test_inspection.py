"""One case is read once: what was found is kept, and found again only while it is true."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stu_pipeline.datasets.cases import Case, list_training_cases
from stu_pipeline.datasets.dataset_json import DatasetJson, read_dataset_json
from stu_pipeline.datasets.inspection import Inspection
from tests import synthetic


@pytest.fixture(name="dataset")
def make_dataset(tmp_path: Path) -> Path:
    return synthetic.write_tiny_dataset(tmp_path, num_cases=2, num_channels=2)


def open_case(dataset: Path) -> tuple[Case, DatasetJson]:
    description = read_dataset_json(dataset)
    return list_training_cases(dataset, description)[0], description


def test_a_sound_case_is_read_once(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, description = open_case(dataset)
    inspect = Inspection(dataset_json=description, cache=tmp_path / "cache")
    first = inspect(case)
    monkeypatch.setattr("stu_pipeline.datasets.inspection.read_image", None)
    again = inspect(case)
    assert first.statistics and again.statistics
    assert (again.label_voxels, again.shape, again.spacing_mm) == (first.label_voxels, first.shape, first.spacing_mm)
    assert again.statistics.shape_after_crop == first.statistics.shape_after_crop
    for ours, theirs in zip(again.statistics.channels, first.statistics.channels, strict=True):
        assert (ours.mean, ours.variance, ours.minimum, ours.maximum) == (
            theirs.mean, theirs.variance, theirs.minimum, theirs.maximum,
        )  # fmt: skip
        assert np.array_equal(ours.values, theirs.values) and np.array_equal(ours.shares, theirs.shares)


def test_a_changed_file_is_read_again(dataset: Path, tmp_path: Path) -> None:
    case, description = open_case(dataset)
    inspect = Inspection(dataset_json=description, cache=tmp_path / "cache")
    before = inspect(case)
    array = np.full(synthetic.TINY_SHAPE, 7, np.int16)
    synthetic.write_volume(case.image_files[0], array, spacing_mm=synthetic.TINY_SPACING_MM)
    after = inspect(case)
    assert before.statistics and after.statistics
    assert after.statistics.channels[0].mean == 7 != before.statistics.channels[0].mean


def test_other_labels_in_dataset_json_are_looked_at_again(dataset: Path, tmp_path: Path) -> None:
    case, description = open_case(dataset)
    Inspection(dataset_json=description, cache=tmp_path / "cache")(case)
    content = json.loads((dataset / "dataset.json").read_text())
    content["labels"] = {"background": 0, "only": 1}
    (dataset / "dataset.json").write_text(json.dumps(content))
    report = Inspection(dataset_json=read_dataset_json(dataset), cache=tmp_path / "cache")(case)
    assert "voxels of label 2, which dataset.json does not name" in report.problems[0]


def test_a_damaged_case_is_not_remembered(dataset: Path, tmp_path: Path) -> None:
    case, description = open_case(dataset)
    case.image_files[1].write_bytes(case.image_files[1].read_bytes()[:-20])
    inspect = Inspection(dataset_json=description, cache=tmp_path / "cache")
    for _ in range(2):
        assert "is cut short" in inspect(case).problems[0]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 broken"])
def test_a_broken_cache_file_is_as_none(dataset: Path, tmp_path: Path, content: bytes) -> None:
    case, description = open_case(dataset)
    inspect = Inspection(dataset_json=description, cache=tmp_path / "cache")
    first = inspect(case)
    (tmp_path / "cache" / f"{case.id}.npz").write_bytes(content)
    assert inspect(case).label_voxels == first.label_voxels


def test_a_dry_run_leaves_the_cache_alone(dataset: Path, tmp_path: Path) -> None:
    case, description = open_case(dataset)
    Inspection(dataset_json=description, cache=tmp_path / "cache", may_write_cache=False)(case)
    assert not (tmp_path / "cache").exists()


def test_the_observer_sees_all_channels_and_the_label(dataset: Path) -> None:
    case, description = open_case(dataset)

    def observe(image: np.ndarray, grid: object, label: np.ndarray) -> tuple[object, ...]:
        return image.shape, image.dtype, grid.shape, label.shape  # type: ignore[attr-defined]

    shape = synthetic.TINY_SHAPE
    report = Inspection(dataset_json=description, observe=observe)(case)
    assert report.observation == ((2, *shape), np.float32, shape, shape)


def test_label_ids_with_gaps_are_counted_as_consecutive_labels(tmp_path: Path) -> None:
    dataset = synthetic.write_tiny_dataset(tmp_path, num_cases=1)
    content = json.loads((dataset / "dataset.json").read_text())
    content["labels"] = {"background": 0, "a": 3, "b": 65535}
    (dataset / "dataset.json").write_text(json.dumps(content))
    case, description = open_case(dataset)
    array = np.zeros(synthetic.TINY_SHAPE, np.uint16)
    array[0, 0, :5], array[1, 0, :2] = 3, 65535
    assert case.label_file
    synthetic.write_volume(case.label_file, array, spacing_mm=synthetic.TINY_SPACING_MM)
    report = Inspection(dataset_json=description)(case)
    assert report.problems == () and report.label_voxels == {0: array.size - 7, 1: 5, 2: 2}
