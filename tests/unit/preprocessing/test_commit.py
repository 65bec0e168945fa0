"""The commit of one case, and the check of a case that was committed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.signature import sign_case
from stu_pipeline.errors import DataError
from stu_pipeline.planfile import read_plan_file
from stu_pipeline.preprocessing.case import CaseJob
from stu_pipeline.preprocessing.commit import CaseCheck, check_case, commit_case
from stu_pipeline.storage import hash_file, read_json
from tests.planned import CONFIGURATION, IDENTIFIER, PLAN_NAME, write_planned_dataset


@pytest.fixture
def job(tmp_path):
    dataset = write_planned_dataset(tmp_path, num_cases=1)
    image = dataset.raw / "imagesTr" / "case_000_0000.nii.gz"
    return CaseJob(
        case=Case(id="case_000", image_files=(image,), label_file=dataset.raw / "labelsTr" / "case_000.nii.gz"),
        plan=read_plan_file(dataset.plan_file(PLAN_NAME)).raw,
        configuration=CONFIGURATION,
        dataset_json=read_json(dataset.dataset_json),
        data_folder=dataset.data_folder(IDENTIFIER),
        scratch_folder=dataset.scratch_folder(IDENTIFIER),
    )


@pytest.fixture
def check(job):
    return CaseCheck(case=job.case, committed=commit_case(job), data_folder=job.data_folder)


def list_names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_committed_case_has_its_files_and_their_hashes(job):
    committed = commit_case(job)
    assert committed.case_id == "case_000" and committed.source == sign_case(job.case)
    assert (
        list_names(job.data_folder) == sorted(committed.files) == ["case_000.b2nd", "case_000.pkl", "case_000_seg.b2nd"]
    )
    for name, mark in committed.files.items():
        file = job.data_folder / name
        assert (file.stat().st_size, hash_file(file)) == (mark.num_bytes, mark.sha256)
    assert list_names(job.scratch_folder) == []


def test_a_second_commit_gives_the_same_bytes(job):
    assert commit_case(job) == commit_case(job)


def test_files_are_flushed_before_they_get_their_names_and_the_last_one_comes_last(job, monkeypatch):
    calls = []
    flush, move = os.fsync, Path.replace

    def note_flush(handle):
        calls.append(("flush", Path(f"/proc/self/fd/{handle}").readlink().name))
        flush(handle)

    def note_move(path, target):
        calls.append(("move", path.name))
        return move(path, target)

    monkeypatch.setattr(os, "fsync", note_flush)
    monkeypatch.setattr(Path, "replace", note_move)
    commit_case(job)
    names = ["case_000.b2nd", "case_000_seg.b2nd", "case_000.pkl"]
    expected = [("flush", name) for name in names] + [("move", name) for name in names]
    assert calls == [*expected, ("flush", job.data_folder.name)]


def test_a_damaged_input_commits_nothing(job):
    image = job.case.image_files[0]
    image.write_bytes(image.read_bytes()[:-20])
    with pytest.raises(DataError, match="case_000_0000"):
        commit_case(job)
    assert list_names(job.data_folder) == [] and list_names(job.scratch_folder) == []


def test_an_untouched_case_need_not_be_done_again(check):
    assert check_case(check) == ""


@pytest.mark.parametrize("position", [0, 100, -1])
@pytest.mark.parametrize("name", ["case_000.b2nd", "case_000_seg.b2nd", "case_000.pkl"])
def test_a_flipped_bit_is_found(check, name, position):
    file = check.data_folder / name
    content = bytearray(file.read_bytes())
    content[position] ^= 0x10
    file.write_bytes(content)
    assert check_case(check) == "damaged files"


def test_a_cut_and_a_missing_file_are_found(check):
    file = check.data_folder / "case_000.b2nd"
    file.write_bytes(file.read_bytes()[:-1])
    assert check_case(check) == "damaged files"
    file.unlink()
    assert check_case(check) == "lost files"


@pytest.mark.parametrize("which", ["image", "label"])
def test_other_input_is_found(check, which):
    file = check.case.image_files[0] if which == "image" else check.case.label_file
    file.write_bytes(file.read_bytes() + b" ")
    assert check_case(check) == "other images or labels"


def test_input_that_is_gone_is_other_input(check):
    check.case.label_file.unlink()
    assert check_case(check) == "other images or labels"
