"""Block C1: label maps with values that are no labels of the dataset are refused, with value and count."""

from __future__ import annotations

import re

import numpy as np
import pytest

from stu_pipeline.datasets.check import check_dataset
from tests.acceptance.in_process import make_refusal_check
from tests.foreign_forms import SHAPE, SPACING_MM, write_pair
from tests.synthetic import make_image, make_label_map, write_dataset_json, write_volume

CONSECUTIVE = {"background": 0, "a": 1, "b": 2}
WITH_GAPS = {"background": 0, "a": 3, "b": 300}
NUM_WRONG = 7
# Labels of the dataset, type of the file, the wrong value, and how the message spells it.
FAULTS = [
    (CONSECUTIVE, np.uint8, 3, "3"),
    (CONSECUTIVE, np.float32, 1.5, "1.5"),
    (CONSECUTIVE, np.int16, -1, "-1"),
    (WITH_GAPS, np.uint16, 1, "1"),
    (CONSECUTIVE, np.float32, np.nan, "nan|NaN"),
    (CONSECUTIVE, np.int32, 70000, "70000"),
    (CONSECUTIVE, np.uint8, 255, "255"),
    (CONSECUTIVE, np.uint16, 256, "256"),
    (CONSECUTIVE, np.uint16, 300, "300"),
    (CONSECUTIVE, np.uint16, 65535, "65535"),
    (CONSECUTIVE, np.int32, 65536, "65536"),
    (CONSECUTIVE, np.int32, 2**31 - 1, "2147483647"),
    (CONSECUTIVE, np.int32, -(2**31), "-2147483648"),
    (CONSECUTIVE, np.int8, -128, "-128"),
    (CONSECUTIVE, np.float32, 0.5, "0.5"),
    (CONSECUTIVE, np.float64, 1.01, "1.01"),
    (CONSECUTIVE, np.float64, 1.002, "1.002"),
    (CONSECUTIVE, np.float64, -0.25, "-0.25"),
    (CONSECUTIVE, np.float32, np.inf, "inf|infinite"),
    (CONSECUTIVE, np.float32, -np.inf, "inf|infinite"),
    (CONSECUTIVE, np.float64, np.nan, "nan|NaN"),
    (CONSECUTIVE, np.float32, 5.0, "5"),
    (CONSECUTIVE, np.float64, -3.0, "-3"),
    (CONSECUTIVE, np.float64, 1e6, "1000000"),
    (CONSECUTIVE, np.float32, 2.9, "2.9"),
    (WITH_GAPS, np.uint16, 2, "2"),
    (WITH_GAPS, np.uint16, 301, "301"),
    (WITH_GAPS, np.uint16, 299, "299"),
    (WITH_GAPS, np.float32, 300.5, "300.5"),
    (WITH_GAPS, np.int16, -300, "-300"),
]
NUM_FAST = 6
PARAMETERS = [
    pytest.param(*fault, marks=[] if index < NUM_FAST else pytest.mark.slow) for index, fault in enumerate(FAULTS)
]


@pytest.fixture
def refuse(tmp_path, monkeypatch, capsys):
    return make_refusal_check(tmp_path, monkeypatch, capsys)


def write_dataset(folder, labels, *, wrong=None, dtype=np.uint16):
    """Write two cases; the second has `NUM_WRONG` voxels of a wrong value."""
    ids = np.array(sorted(labels.values()))
    for index in range(2):
        label_map = make_label_map(SHAPE, num_labels=len(ids) - 1)
        values = ids[label_map].astype(dtype)
        if index == 1 and wrong is not None:
            values.reshape(-1)[:NUM_WRONG] = wrong
        write_volume(folder / "labelsTr" / f"case_{index}.nii.gz", values, spacing_mm=SPACING_MM)
        write_volume(folder / "imagesTr" / f"case_{index}_0000.nii.gz", make_image(label_map), spacing_mm=SPACING_MM)
    write_dataset_json(folder, channel_names={"0": "MR"}, labels=labels, numTraining=2, file_ending=".nii.gz")
    return folder


@pytest.mark.parametrize(("labels", "dtype", "wrong", "spelled"), PARAMETERS)
def test_a_wrong_label_is_named_with_value_and_count(tmp_path, labels, dtype, wrong, spelled):
    report = check_dataset(write_dataset(tmp_path / "Dataset901_X", labels, wrong=wrong, dtype=dtype), num_workers=0)
    (problem,) = report.problems
    assert "case 'case_1'" in problem and "case_1.nii.gz" in problem
    assert re.search(rf"(?<![\d.-])({spelled})(?![\d.])", problem), problem
    assert re.search(rf"\b{NUM_WRONG} voxels\b", problem), problem


def test_several_wrong_values_are_all_counted(tmp_path):
    folder = write_dataset(tmp_path / "Dataset901_X", WITH_GAPS, wrong=[1, 1, 2, 2, 2, 4, 65535])
    text = "\n".join(check_dataset(folder, num_workers=0).problems)
    for value, count in ((1, 2), (2, 3), (4, 1), (65535, 1)):
        assert f"{count} voxels of label {value}," in text


@pytest.mark.parametrize(
    "index", [0, 1, 3, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_the_command_refuses_with_code_3(tmp_path, refuse, index):
    labels, dtype, wrong, spelled = FAULTS[index]
    folder = write_dataset(tmp_path / "raw" / "Dataset901_X", labels, wrong=wrong, dtype=dtype)
    message = refuse("plan", str(folder), "--dry-run", "--workers", "0")
    assert "case_1" in message and re.search(spelled, message) and f"{NUM_WRONG} voxels" in message


def test_a_folder_pair_refuses_every_faulty_label_map_at_once(tmp_path, refuse):
    images, labels = write_pair(tmp_path / "raw", ("a", "b", "c"))
    for name, value in (("a", 0.5), ("b", -4.0)):
        write_volume(labels / f"{name}.nii.gz", np.full(SHAPE, value, np.float32), spacing_mm=SPACING_MM)
    message = refuse("plan", "--images", str(images), "--labels", str(labels), "--dataset-name", "X", "--workers", "0")
    size = np.prod(SHAPE)
    assert f"'a.nii.gz' has {size} voxels" in message and f"'b.nii.gz' has {size} voxels" in message


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64])
def test_ids_to_65535_are_exact(tmp_path, dtype):
    labels = {"background": 0, "a": 255, "b": 256, "c": 300, "d": 65535}
    folder = write_dataset(tmp_path / "Dataset901_X", labels, dtype=dtype)
    report = check_dataset(folder, num_workers=0)
    expected = np.bincount(make_label_map(SHAPE, num_labels=4).ravel(), minlength=5)
    assert report.problems == ()
    assert [case.label_voxels for case in report.cases] == [dict(enumerate(expected.tolist()))] * 2


@pytest.mark.parametrize("value", [1.0000001, 0.9995, 2.0009])
def test_rounding_within_a_thousandth_is_accepted(tmp_path, value):
    folder = write_dataset(tmp_path / "Dataset901_X", CONSECUTIVE, wrong=value, dtype=np.float64)
    report = check_dataset(folder, num_workers=0)
    assert report.problems == () and report.cases[1].label_voxels[round(value)] >= NUM_WRONG
