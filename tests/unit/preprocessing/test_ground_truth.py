"""Copies of the label maps: right, cheap to check, and of the dataset's cases only."""

from __future__ import annotations

import pytest
import SimpleITK as sitk  # noqa: N813

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.label_ids import LabelIds
from stu_pipeline.datasets.reading import check_same_grid, read_label_map
from stu_pipeline.log import ignore_events
from stu_pipeline.preprocessing.ground_truth import copy_ground_truth
from stu_pipeline.storage import hash_file
from tests.planned import write_planned_dataset, write_raw_case

IDS = LabelIds((0, 3, 300))


@pytest.fixture
def dataset(tmp_path):
    return write_planned_dataset(tmp_path, num_cases=3, label_ids=IDS.original)


def copy(dataset, ids=None, indices=range(3)):
    cases = [
        Case(
            id=f"case_{index:03d}",
            image_files=(dataset.raw / "imagesTr" / f"case_{index:03d}_0000.nii.gz",),
            label_file=dataset.raw / "labelsTr" / f"case_{index:03d}.nii.gz",
        )
        for index in indices
    ]
    copy_ground_truth(dataset, cases, ids, listen=ignore_events)


def read_state(dataset):
    """Content and time of every file, the manifest included."""
    files = [*dataset.ground_truth.iterdir(), dataset.ground_truth_manifest]
    return {file.name: (hash_file(file), file.stat().st_mtime_ns) for file in files}


def test_without_gaps_the_copies_are_exact(dataset):
    copy(dataset)
    for file in (dataset.raw / "labelsTr").iterdir():
        assert hash_file(dataset.ground_truth / file.name) == hash_file(file)


def test_with_gaps_the_copies_hold_consecutive_ids(dataset):
    copy(dataset, IDS)
    for file in (dataset.raw / "labelsTr").iterdir():
        copied = read_label_map(dataset.ground_truth / file.name).array
        assert (IDS.to_original(copied) == read_label_map(file).array).all()


@pytest.mark.parametrize("ids", [None, IDS])
def test_a_second_time_nothing_is_written(dataset, ids):
    copy(dataset, ids)
    before = read_state(dataset)
    copy(dataset, ids)
    assert read_state(dataset) == before


@pytest.mark.parametrize("ids", [None, IDS])
def test_damaged_and_outdated_copies_are_made_again(dataset, ids):
    copy(dataset, ids)
    good = {name: sha256 for name, (sha256, _) in read_state(dataset).items()}
    (dataset.ground_truth / "case_000.nii.gz").write_bytes(b"x")
    (dataset.ground_truth / "case_001.nii.gz").unlink()
    copy(dataset, ids)
    assert {name: sha256 for name, (sha256, _) in read_state(dataset).items()} == good
    write_raw_case(dataset.raw, 2, seed=9, label_ids=IDS.original)
    copy(dataset, ids)
    now = {name: sha256 for name, (sha256, _) in read_state(dataset).items()}
    assert now["case_002.nii.gz"] != good["case_002.nii.gz"] and now["case_001.nii.gz"] == good["case_001.nii.gz"]


def test_copies_with_other_ids_are_made_again(dataset):
    copy(dataset)
    copy(dataset, IDS)
    assert read_label_map(dataset.ground_truth / "case_000.nii.gz").array.max() == 2
    copy(dataset)
    assert read_label_map(dataset.ground_truth / "case_000.nii.gz").array.max() == 300


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 1}', '{"schema": 1, "label_ids": null, "files": {"a": 1}}'])
def test_a_damaged_manifest_is_written_again(dataset, content):
    copy(dataset)
    good = dataset.ground_truth_manifest.read_bytes()
    dataset.ground_truth_manifest.write_text(content)
    copy(dataset)
    assert dataset.ground_truth_manifest.read_bytes() == good


def test_copies_of_removed_cases_go_and_files_of_others_stay(dataset):
    copy(dataset)
    (dataset.ground_truth / "notes.txt").touch()
    copy(dataset, indices=(0, 2))
    names = sorted(file.name for file in dataset.ground_truth.iterdir())
    assert names == ["case_000.nii.gz", "case_002.nii.gz", "notes.txt"]


def test_a_label_map_that_cannot_be_read_does_not_stop_the_others(dataset):
    label = dataset.raw / "labelsTr" / "case_001.nii.gz"
    label.write_bytes(label.read_bytes()[:-9])
    copy(dataset, IDS)
    assert sorted(file.name for file in dataset.ground_truth.iterdir()) == ["case_000.nii.gz", "case_002.nii.gz"]


@pytest.mark.parametrize("ids", [None, IDS])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_copies_are_named_after_their_case_and_have_the_ending_of_the_dataset(dataset, tmp_path, ids, ending):
    plain = dataset.raw / "labelsTr" / "case_000.nii.gz"
    source = tmp_path / f"mask of somebody_0000{ending}"
    sitk.WriteImage(sitk.ReadImage(str(plain)), str(source))
    case = Case(id="somebody", image_files=(), label_file=source)
    for _ in range(2):
        copy_ground_truth(dataset, [case], ids, file_ending=".nii.gz", listen=ignore_events)
        copied = read_label_map(dataset.ground_truth / "somebody.nii.gz")
        original = read_label_map(plain)
        assert ((copied.array if ids is None else ids.to_original(copied.array)) == original.array).all()
        assert check_same_grid(copied, original) == []
