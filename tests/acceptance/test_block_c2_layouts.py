"""Block C2: faults of the layout are listed together in one run, and zero cases are never a success."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from stu_pipeline.datasets.cases import list_input_cases, list_training_cases
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.datasets.forms.folder_pair import FolderPair, take_folder_pair
from stu_pipeline.errors import DataError
from tests.acceptance.in_process import make_refusal_check
from tests.foreign_forms import write_pair
from tests.synthetic import write_dataset_json, write_tiny_dataset

LIMIT_S = 5.0


@pytest.fixture
def refuse(tmp_path, monkeypatch, capsys):
    return make_refusal_check(tmp_path, monkeypatch, capsys)


@pytest.fixture
def dataset(tmp_path):
    """A sound dataset of two channels and three cases."""
    return write_tiny_dataset(tmp_path / "raw", num_cases=3, num_channels=2, shape=(4, 6, 8))


def remove(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


def add(*names):
    def change(folder):
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "labelsTr" / "case_002.nii.gz", path)

    return change


def rename(old, new):
    return lambda folder: (folder / old).rename(folder / new)


def pipe(name):
    def change(folder):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def link(name, target):
    def change(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def empty(*names):
    def change(folder):
        for name in names:
            shutil.rmtree(folder / name)
            (folder / name).mkdir()

    return change


def describe(**changes):
    def change(folder):
        content = read_dataset_json(folder).raw
        write_dataset_json(folder, **{**content, **changes})

    return change


def drop(name):
    return lambda folder: shutil.rmtree(folder / name)


def list_files(first, **files):
    """Give the dataset a list of its files, of which the first case is faulty."""
    good = {"images": ["imagesTr/case_001_0000.nii.gz", "imagesTr/case_001_0001.nii.gz"]}
    good["label"] = "labelsTr/case_001.nii.gz"
    return describe(dataset={first: {**good, **files}, "good": good}, **{"numTraining": 2})


# What is done to the sound dataset, and what the message must say.
LAYOUTS = [
    ([remove("imagesTr/case_000_0001.nii.gz")], ["missing 'case_000_0001.nii.gz'"]),
    ([pipe("imagesTr/case_000_0001.nii.gz")], ["'imagesTr/case_000_0001.nii.gz' is not a regular file"]),
    ([empty("imagesTr", "labelsTr")], ["no training cases found"]),
    ([add("imagesTr/Case_000_0000.nii.gz", "imagesTr/Case_000_0001.nii.gz", "labelsTr/Case_000.nii.gz")],
     ["cases 'Case_000' and 'case_000' have names"]),
    ([add("imagesTr/case_000_0000.nii")], ["'imagesTr/case_000_0000.nii' ends in .nii"]),
    ([remove("labelsTr/case_001.nii.gz"), add("imagesTr/pa.nii.gz", "labelsTr/x.nii.gz")],
     ["case 'case_001' has no label map", "'imagesTr/pa.nii.gz' has no channel number", "'labelsTr/x.nii.gz' has no"]),
    ([link("labelsTr/case_001.nii.gz", "nowhere")], ["is a link to a file that is not there"]),
    ([add("imagesTr/case_000_0002.nii.gz")], ["unexpected channels 'case_000_0002.nii.gz'"]),
    ([remove("imagesTr/case_000_0000.nii.gz")], ["missing 'case_000_0000.nii.gz'"]),
    ([remove("imagesTr/case_000_0000.nii.gz", "imagesTr/case_000_0001.nii.gz")], ["'labelsTr/case_000.nii.gz' has no"]),
    ([add("labelsTr/extra.nii.gz")], ["'labelsTr/extra.nii.gz' has no image"]),
    ([rename("imagesTr/case_000_0001.nii.gz", "imagesTr/case_000_1.nii.gz")],
     ["'imagesTr/case_000_1.nii.gz' has no channel number", "missing 'case_000_0001.nii.gz'"]),
    ([rename("imagesTr/case_000_0001.nii.gz", "imagesTr/case_000_00001.nii.gz")], ["has no channel number"]),
    ([rename("labelsTr/case_000.nii.gz", "labelsTr/case_000_0000.nii.gz")],
     ["case 'case_000' has no label map", "'labelsTr/case_000_0000.nii.gz' has no image"]),
    ([rename("labelsTr/case_000.nii.gz", "labelsTr/case_000.mha")], ["'labelsTr/case_000.mha' ends in .mha"]),
    ([rename("imagesTr/case_000_0000.nii.gz", "imagesTr/case_000_0000.NII.GZ")], ["ends in .NII.GZ"]),
    ([empty("imagesTr")], ["'labelsTr/case_000.nii.gz' has no image", "'labelsTr/case_002.nii.gz' has no image"]),
    ([empty("labelsTr")], ["case 'case_000' has no label map", "case 'case_002' has no label map"]),
    ([drop("imagesTr")], ["folder 'imagesTr' not found"]),
    ([drop("imagesTr"), drop("labelsTr")], ["folder 'imagesTr' not found", "folder 'labelsTr' not found"]),
    ([link("labelsTr/case_001.nii.gz", "case_001.nii.gz")], ["is a link to a file that is not there"]),
    ([link("labelsTr/case_001.nii.gz", "/dev/zero")], ["'labelsTr/case_001.nii.gz' is not a regular file"]),
    ([add("imagesTr/a\u0308_0000.nii.gz", "imagesTr/\u00e4_0000.nii.gz", "labelsTr/a\u0308.nii.gz")],
     ["names that some systems cannot tell apart"]),
    ([add("imagesTr/new\nline_0000.nii.gz")], ["has a name that cannot be printed"]),
    ([describe(file_ending=".nrrd")], ["ends in .nii.gz but dataset.json says .nrrd"]),
    ([describe(channel_names={"0": "MR"})], ["unexpected channels 'case_002_0001.nii.gz', expected 1"]),
    ([list_files("x", label="labelsTr/nowhere.nii.gz")], ["case 'x' lists", "which is not there"]),
    ([list_files("x", images=["imagesTr/case_000_0000.nii.gz"])], ["case 'x' lists 1 of 2 channels"]),
    ([list_files("Good")], ["cases 'Good' and 'good' have names"]),
    ([pipe("pipe.nii.gz"), list_files("x", label="pipe.nii.gz")], ["which is not a regular file"]),
]  # fmt: skip
NUM_FAST = 7
PARAMETERS = [
    pytest.param(*layout, marks=[] if index < NUM_FAST else pytest.mark.slow) for index, layout in enumerate(LAYOUTS)
]


@pytest.mark.parametrize(("changes", "expected"), PARAMETERS)
def test_every_fault_of_a_layout_is_named(dataset, changes, expected):
    for change in changes:
        change(dataset)
    start = time.monotonic()
    with pytest.raises(DataError) as error:
        list_training_cases(dataset, read_dataset_json(dataset))
    assert time.monotonic() - start < LIMIT_S
    text = "\n".join((error.value.problem, *error.value.details))
    for part in expected:
        assert part in text, text


def test_all_layouts_at_once_are_one_list(dataset):
    for change in (
        remove("imagesTr/case_000_0001.nii.gz"),
        add("labelsTr/extra.nii.gz"),
        pipe("imagesTr/p_0000.nii.gz"),
    ):
        change(dataset)
    with pytest.raises(DataError, match="3 problems") as error:
        list_training_cases(dataset, read_dataset_json(dataset))
    assert len(error.value.details) == 3


@pytest.mark.parametrize(
    "index", [0, 1, 2, 5, *(pytest.param(i, marks=pytest.mark.slow) for i in (3, 6, 18, 21, 23, 29))]
)
def test_the_command_refuses_with_code_3_and_in_time(dataset, refuse, index):
    changes, expected = LAYOUTS[index]
    for change in changes:
        change(dataset)
    start = time.monotonic()
    message = refuse("plan", str(dataset), "--dry-run", "--workers", "0")
    assert time.monotonic() - start < LIMIT_S
    assert all(part in message for part in expected), message


def test_junk_is_no_fault(dataset):
    add("imagesTr/.hidden_0000.nii.gz", "labelsTr/._case_000.nii.gz", "imagesTr/sub/x_0000.nii.gz")(dataset)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt"):
        (dataset / "imagesTr" / name).touch()
    assert len(list_training_cases(dataset, read_dataset_json(dataset))) == 3


def test_zero_cases_to_predict_are_refused(tmp_path):
    for name in ("a.dcm", ".hidden.nii.gz", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "b.nii.gz").mkdir()
    with pytest.raises(DataError, match="no cases found"):
        list_input_cases(tmp_path, 1, ".nii.gz")


def test_a_folder_pair_lists_its_faults_together(tmp_path):
    images, labels = write_pair(tmp_path, ("a", "b", "c", "d"))
    (images / "a.nii.gz").unlink()
    (labels / "b.nii.gz").unlink()
    (images / "c.nii.gz").unlink()
    os.mkfifo(images / "c.nii.gz")
    (labels / "d.mha").touch()
    start = time.monotonic()
    with pytest.raises(DataError, match="5 problems"):  # the pipe leaves a label map without an image
        take_folder_pair(FolderPair(images=images, labels=labels))
    assert time.monotonic() - start < LIMIT_S
