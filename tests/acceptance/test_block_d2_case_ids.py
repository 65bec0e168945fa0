"""Block D2: names of cases are refused, or everything made from them stays inside the folders."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from stu_pipeline.datasets.cases import list_training_cases
from stu_pipeline.datasets.dataset_fields import check_case_id
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.datasets.forms.recognise import recognise_form
from stu_pipeline.errors import DataError
from tests.acceptance.in_process import hash_tree, make_refusal_check
from tests.foreign_forms import write_task
from tests.synthetic import write_tiny_dataset

REFUSED = [
    "../../../evil",
    "/tmp/evil",
    "a\0b",
    "-rf",
    "x" * 256,
    "a\nb",
    "a\x1b[2J\x1b]0;evil\x07",
    "",
    ".",
    "..",
    "...",
    ".hidden",
    "a/b",
    "a\\b",
    "..\\..\\evil",
    "C:\\evil",
    "--help",
    " a",
    "a ",
    "a\tb",
    "a\rb",
    "a\u202egnp.exe",
    "a\u2028b",
    "\ufeffa",
    "\u00e4" * 120,
    "x" * 129,
    "a\x7fb",
]
ACCEPTED = [
    "case_001",
    "A.b-c_9",
    "M\u00fcller 2",
    "\u60a3\u8005_001",
    "x" * 128,
    "100",
    "a..b",
    "(1) copy",
    "a;rm -rf b",
]
NUM_FAST = 7


@pytest.fixture
def dataset(tmp_path):
    return write_tiny_dataset(tmp_path / "raw", num_cases=1, num_labels=1, shape=(4, 6, 8))


def list_under(folder, *case_ids):
    content = read_dataset_json(folder).raw
    files = {"images": ["imagesTr/case_000_0000.nii.gz"], "label": "labelsTr/case_000.nii.gz"}
    content |= {"dataset": dict.fromkeys(case_ids, files), "numTraining": len(case_ids)}
    (folder / "dataset.json").write_text(json.dumps(content))


def test_there_are_at_least_30_of_them():
    assert len(REFUSED) + len(ACCEPTED) >= 30


@pytest.mark.parametrize("case_id", REFUSED)
def test_a_hostile_listed_name_is_refused(dataset, case_id):
    list_under(dataset, case_id)
    with pytest.raises(DataError, match="case name") as error:
        read_dataset_json(dataset)
    assert str(error.value).isprintable() and len(str(error.value)) < 400


@pytest.mark.parametrize(
    "case_id", [pytest.param(name, marks=[] if i < NUM_FAST else pytest.mark.slow) for i, name in enumerate(REFUSED)]
)
def test_the_command_refuses_with_code_3_and_prints_no_controls(dataset, tmp_path, monkeypatch, capsys, case_id):
    list_under(dataset, case_id)
    make_refusal_check(tmp_path, monkeypatch, capsys)("plan", str(dataset), "--dry-run", "--workers", "0")


@pytest.mark.parametrize("case_id", ACCEPTED)
def test_an_accepted_name_stays_inside_whatever_is_appended(dataset, tmp_path, case_id):
    list_under(dataset, case_id)
    (case,) = list_training_cases(dataset, read_dataset_json(dataset))
    folder = tmp_path / "made"
    folder.mkdir()
    for ending in (".b2nd", "_seg.b2nd", ".pkl", ".nii.gz", ".npz", "_0000.nii.gz"):
        path = folder / f"{case.id}{ending}"
        path.touch()
        assert path.resolve().parent == folder.resolve()
    assert len(list(folder.iterdir())) == 6


@pytest.mark.parametrize("case_id", [name for name in REFUSED if name and "/" not in name and "\0" not in name])
def test_a_hostile_file_name_is_refused_or_passed_over(dataset, tmp_path, case_id):
    try:
        for folder, suffix in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
            shutil.copy(dataset / "labelsTr" / "case_000.nii.gz", dataset / folder / f"{case_id}{suffix}")
    except OSError:
        return  # the file system has no such names
    before = hash_tree(tmp_path)
    try:
        cases = list_training_cases(dataset, read_dataset_json(dataset))
    except DataError as error:
        assert all(line.isprintable() for line in (str(error), *error.details))
    else:
        assert case_id.startswith(".") and [case.id for case in cases] == ["case_000"]
    assert hash_tree(tmp_path) == before


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\xc3"])
def test_a_file_name_that_is_no_text_is_refused(dataset, name):
    shutil.copy(dataset / "labelsTr" / "case_000.nii.gz", dataset / "imagesTr" / os.fsdecode(name + b"_0000.nii.gz"))
    with pytest.raises(DataError, match="cannot be printed") as error:
        list_training_cases(dataset, read_dataset_json(dataset))
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["../../evil", "-rf", "a\x1b[2J"])
def test_a_decathlon_task_with_a_hostile_name_is_refused(tmp_path, monkeypatch, capsys, name):
    entry = {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
    folder = write_task(tmp_path / "raw" / "Task04_X", num_cases=1, raw={"training": [entry]})
    assert recognise_form(folder).is_foreign
    make_refusal_check(tmp_path, monkeypatch, capsys)("plan", str(folder), "--workers", "0")


def test_names_as_people_give_them_are_accepted():
    assert [check_case_id(name) for name in ACCEPTED] == [""] * len(ACCEPTED)
