"""All problems of a dataset in one pass."""

from __future__ import annotations

import numpy as np
import pytest

from stu_pipeline.datasets.cases import list_training_cases
from stu_pipeline.datasets.check import check_dataset, choose_num_workers, require_dataset
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.errors import DataError, StorageError
from tests import synthetic


@pytest.fixture
def folder(tmp_path):
    return synthetic.write_tiny_dataset(tmp_path, num_cases=4, num_channels=2)


def image(folder, case, channel=0):
    return folder / "imagesTr" / f"case_{case:03d}_{channel:04d}.nii.gz"


def label(folder, case):
    return folder / "labelsTr" / f"case_{case:03d}.nii.gz"


def rewrite(path, array, **changes):
    synthetic.write_volume(path, array, **{"spacing_mm": synthetic.TINY_SPACING_MM, **changes})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_channels": 2},
        {"shape": (24, 32), "spacing_mm": (1.0, 1.0)},
        {"shape": (24, 32), "file_ending": ".png"},
        {"regions": True, "num_labels": 3},
        {"ignore_label": True},
        {"file_ending": ".nrrd"},
        {"file_ending": ".mha", "num_labels": 4},
        {"file_ending": ".tif"},
    ],
)
def test_a_sound_dataset_has_no_problems(tmp_path, options):
    report = check_dataset(synthetic.write_tiny_dataset(tmp_path, num_cases=2, **options), num_workers=0)
    assert report.num_cases == 2 and report.problems == () and report.warnings == ()
    assert report.cases[0].label_voxels[1] > 0


def test_case_reports_hold_shape_spacing_and_label_voxels(folder):
    report = check_dataset(folder, num_workers=0)
    case = report.cases[0]
    assert (case.case_id, case.shape, case.spacing_mm) == (
        "case_000",
        synthetic.TINY_SHAPE,
        synthetic.TINY_SPACING_MM,
    )
    assert sum(case.label_voxels.values()) == np.prod(synthetic.TINY_SHAPE)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_problems_are_collected(folder, num_workers):
    blank = np.zeros(synthetic.TINY_SHAPE, np.uint8)
    image(folder, 0).write_bytes(image(folder, 0).read_bytes()[:-900])
    rewrite(image(folder, 1, 1), blank, origin=(5, 0, 0))
    wrong = blank.copy()
    wrong[0, 0, :7] = 9
    rewrite(label(folder, 2), wrong)
    rewrite(label(folder, 3), blank[:-1])
    seen = []
    report = check_dataset(folder, num_workers=num_workers, on_progress=lambda *progress: seen.append(progress))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)] and len(report.problems) == 4
    assert report.problems[0].startswith("case 'case_000': 'case_000_0000.nii.gz' is cut short")
    assert "case 'case_001': 'case_001_0001.nii.gz': origin" in report.problems[1]
    assert "has 7 voxels of label 9, which dataset.json does not name" in report.problems[2]
    assert "label map 'case_003.nii.gz': shape 19x24x28 differs from 20x24x28" in report.problems[3]
    with pytest.raises(DataError, match="has 4 problems") as error:
        require_dataset(check_dataset(folder, num_workers=0), folder)
    assert error.value.details == report.problems


def test_a_single_problem_is_the_message(folder):
    label(folder, 2).write_bytes(b"")
    with pytest.raises(DataError, match=r"case 'case_002': label map 'case_002\.nii\.gz' is empty"):
        require_dataset(check_dataset(folder, num_workers=0), folder)


def test_an_empty_label_map_and_a_label_nobody_has_are_warnings(folder):
    blank = np.zeros(synthetic.TINY_SHAPE, np.uint8)
    rewrite(label(folder, 0), blank)
    for case in (1, 2, 3):
        only_one = blank.copy()
        only_one[5, 5, 5] = 1
        rewrite(label(folder, case), only_one)
    report = check_dataset(folder, num_workers=0)
    assert report.problems == ()
    assert report.warnings == ("case 'case_000': has no foreground", "label 2 'label2' does not occur in any case")


def test_no_foreground_anywhere_is_a_problem(folder):
    for case in range(4):
        rewrite(label(folder, case), np.zeros(synthetic.TINY_SHAPE, np.uint8))
    assert check_dataset(folder, num_workers=0).problems == ("no case has any foreground",)


def test_two_channels_of_one_picture_are_counted(tmp_path):
    folder = synthetic.write_tiny_dataset(tmp_path, num_cases=2, shape=(24, 32), file_ending=".png")
    content = {"labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 2, "file_ending": ".png"}
    synthetic.write_dataset_json(folder, channel_names={"0": "R", "1": "G", "2": "B"}, **content)
    assert "have 1 channels, dataset.json names 3" in check_dataset(folder, num_workers=0).problems[0]


def test_workers_are_chosen_by_size_and_memory(tmp_path, monkeypatch):
    folder = synthetic.write_tiny_dataset(tmp_path, num_cases=3)
    cases = list_training_cases(folder, read_dataset_json(folder))
    assert choose_num_workers(None, cases) == 0
    assert choose_num_workers(5, cases) == 5
    monkeypatch.setattr("stu_pipeline.datasets.check._SMALL_DATASET_BYTES", 0)
    monkeypatch.setattr("stu_pipeline.datasets.check.count_usable_cores", lambda: 2)
    monkeypatch.setattr("stu_pipeline.datasets.check.measure_free_ram_gib", lambda: 64.0)
    assert choose_num_workers(None, cases) == 2
    monkeypatch.setattr("stu_pipeline.datasets.check.measure_free_ram_gib", lambda: 0.2)
    assert choose_num_workers(None, cases) == 1


def test_a_full_disk_is_no_fault_of_the_cases(tmp_path):
    folder = synthetic.write_tiny_dataset(tmp_path, num_cases=1)
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(StorageError):
        check_dataset(folder, num_workers=0, cache=tmp_path / "cache")
