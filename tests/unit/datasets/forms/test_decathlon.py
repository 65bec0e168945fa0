"""Decathlon tasks and nnU-Net v1 tasks, looked through."""

from __future__ import annotations

import os

import pytest

from stu_pipeline.datasets.forms.decathlon import take_decathlon
from stu_pipeline.errors import DataError
from tests.foreign_forms import write_task

FOUR = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}


def test_a_decathlon_task_of_one_channel_lists_its_files(tmp_path):
    folder = write_task(tmp_path / "Task04_Hippocampus", num_test=2)
    found = take_decathlon(folder)
    assert (found.form, found.number, found.name) == ("msd", 4, "Hippocampus")
    assert found.channel_names == ("MRI",) and not found.must_split and found.file_ending == ".nii.gz"
    assert found.labels == {"background": 0, "Anterior": 1, "Posterior": 2}
    assert [case.id for case in found.cases] == ["case_000", "case_001", "case_002"]
    assert found.cases[0].images == (folder / "imagesTr" / "case_000.nii.gz",)
    assert found.cases[0].label == folder / "labelsTr" / "case_000.nii.gz"
    assert found.extra == {"name": "Phantom", "description": "made on the spot", "licence": "none"}
    assert found.notes == (f"2 images in 'imagesTs' are no training cases; predict them with -i {folder / 'imagesTs'}",)


def test_a_decathlon_task_of_several_channels_must_be_split(tmp_path):
    found = take_decathlon(write_task(tmp_path / "Task01_BrainTumour", num_cases=1, modality=FOUR))
    assert found.must_split and found.form == "msd" and found.channel_names == ("FLAIR", "T1w", "t1gd", "T2w")
    assert len(found.cases[0].images) == 1


@pytest.mark.parametrize("modality", [{"0": "CT"}, FOUR])
def test_an_nnunet_v1_task_lists_its_numbered_files(tmp_path, modality):
    folder = write_task(tmp_path / "Task004_Liver", num_cases=2, modality=modality, is_v1=True)
    found = take_decathlon(folder)
    assert found.form == "nnunet_v1" and found.number == 4 and not found.must_split
    assert [path.name for path in found.cases[1].images] == [
        f"case_001_{index:04d}.nii.gz" for index in range(len(modality))
    ]


def test_files_are_found_without_a_list(tmp_path):
    folder = write_task(tmp_path / "Task04_X", raw={"training": ...})
    (folder / "imagesTr" / "._case_000.nii.gz").touch()
    (folder / "labelsTr" / "._case_000.nii.gz").touch()
    found = take_decathlon(folder)
    assert len(found.cases) == 3
    assert found.notes == ("1 hidden file in 'imagesTr' ignored: '._case_000.nii.gz'",)


def test_images_outside_the_list_are_noted(tmp_path):
    folder = write_task(tmp_path / "Task04_X")
    (folder / "imagesTr" / "case_777.nii.gz").touch()
    assert "1 images in 'imagesTr' are not listed under training and left out" in take_decathlon(folder).notes[0]


def test_label_names_become_unique_and_zero_is_background(tmp_path):
    labels = {"0": "Clear Label", "1": "cyst", "2": "cyst", "300": "background"}
    found = take_decathlon(write_task(tmp_path / "Task04_X", labels=labels))
    assert found.labels == {"background": 0, "cyst": 1, "cyst_2": 2, "background_300": 300}
    assert len(found.notes) == 3


def test_a_folder_of_another_name_brings_no_number(tmp_path):
    found = take_decathlon(write_task(tmp_path / "my task"))
    assert found.number is None and found.name == "my task"


def test_all_problems_come_together(tmp_path):
    folder = write_task(tmp_path / "Task04_X", num_cases=4, labels={"0": "background", "one": "liver"})
    (folder / "imagesTr" / "case_000.nii.gz").unlink()
    (folder / "labelsTr" / "case_001.nii.gz").unlink()
    (folder / "labelsTr" / "case_002.nii.gz").unlink()
    os.mkfifo(folder / "labelsTr" / "case_002.nii.gz")
    with pytest.raises(DataError, match="4 problems") as error:
        take_decathlon(folder)
    text = "\n".join(error.value.details)
    assert "labels must name whole numbers, found 'one': 'liver'" in text
    assert "case 'case_000' lists 'imagesTr/case_000.nii.gz', which is not there" in text
    assert "case 'case_001' lists 'labelsTr/case_001.nii.gz', which is not there" in text
    assert "case 'case_002' lists 'labelsTr/case_002.nii.gz', which is not a regular file" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": ["CT"]}, "modality must be an object"),
        ({"modality": {"1": "CT"}}, "modality must count"),
        ({"labels": {}}, "labels must be an object"),
        ({"labels": {"0": "background"}}, "no foreground"),
        ({"labels": {"0": "background", "70000": "x"}}, "65535"),
        ({"labels": {"0": "background", "9" * 5000: "x"}}, "whole numbers"),
        ({"labels": {"0": "background", "1": 5}}, "whole numbers"),
        ({"training": {}}, "training must be a list"),
        ({"training": [7]}, "training must list images and labels, found 7"),
        ({"training": [{"image": "../x.nii.gz", "label": "y.nii.gz"}]}, "leaves the dataset folder"),
        ({"training": [{"image": "~/x.nii.gz", "label": "y.nii.gz"}]}, "expected a plain path"),
        ({"training": []}, "no training cases found"),
        ({"training": [{"image": "a/-rf.nii.gz", "label": "a/-rf.nii.gz"}]}, "case name '-rf' is not allowed"),
    ],
)
def test_each_fault_is_named(tmp_path, changes, message):
    with pytest.raises(DataError) as error:
        take_decathlon(write_task(tmp_path / "Task04_X", num_cases=1, raw=changes))
    assert message in "\n".join((str(error.value), *error.value.details))


def test_a_case_that_lacks_a_channel_is_named(tmp_path):
    folder = write_task(tmp_path / "Task04_X", num_cases=2, modality=FOUR, is_v1=True)
    (folder / "imagesTr" / "case_001_0002.nii.gz").unlink()
    with pytest.raises(DataError, match=r"'imagesTr/case_001_0002.nii.gz', which is not there"):
        take_decathlon(folder)


def test_both_ways_of_naming_in_one_task_are_refused(tmp_path):
    folder = write_task(tmp_path / "Task04_X", num_cases=2)
    (folder / "imagesTr" / "case_001.nii.gz").rename(folder / "imagesTr" / "case_001_0000.nii.gz")
    with pytest.raises(DataError, match="some images have channel numbers and some have not"):
        take_decathlon(folder)
