"""Preprocessing again: what is kept, what is done again, what is removed, and what is said about it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal

import pytest

from stu_pipeline import PreprocessConfig, preprocess
from stu_pipeline.errors import DataError, LockedError, MemoryLimitError, UsageError
from stu_pipeline.log import Notice, Progress
from stu_pipeline.preprocessing import preprocess as stage
from stu_pipeline.preprocessing.manifest import read_manifest
from stu_pipeline.storage import hash_file, hold_lock
from stu_pipeline.workspace import use_workspace
from tests.planned import (
    CONFIGURATION,
    IDENTIFIER,
    PLAN_NAME,
    write_description,
    write_plan,
    write_planned_dataset,
    write_raw_case,
)


@pytest.fixture
def dataset(tmp_path):
    with use_workspace(tmp_path):
        yield write_planned_dataset(tmp_path)


def run(dataset, *, num_workers=0, events=None, **changes):
    config = PreprocessConfig(dataset=str(dataset.raw), plan_name=PLAN_NAME, num_workers=num_workers, **changes)
    return preprocess(config, listen=(lambda event: None) if events is None else events.append)


def run_again(dataset, **changes):
    """Return what was done, and the notices about cases."""
    events = []
    result = run(dataset, events=events, **changes)
    said = [event.text for event in events if isinstance(event, Notice) and not event.text.startswith("preprocessing ")]
    return count(result), said


def count(result):
    return tuple(
        numbers[CONFIGURATION]
        for numbers in (result.num_done, result.num_reused, result.num_redone, result.num_removed)
    )


def hash_tree(folder):
    return {str(file.relative_to(folder)): hash_file(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def flip(file, position=60):
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def test_a_first_run_does_every_case_and_leaves_nothing_else(dataset):
    events = []
    assert count(run(dataset, events=events)) == (3, 0, 0, 0)
    names = sorted(str(file.relative_to(dataset.preprocessed)) for file in dataset.preprocessed.rglob("*"))
    cases = [f"{IDENTIFIER}/case_00{i}{ending}" for i in range(3) for ending in (".b2nd", ".pkl", "_seg.b2nd")]
    labels = [f"gt_segmentations/case_00{i}.nii.gz" for i in range(3)]
    other = [IDENTIFIER, f"{IDENTIFIER}.manifest.json", "gt_segmentations", "gt_segmentations.manifest.json"]
    assert names == sorted([*cases, *labels, *other, f"{PLAN_NAME}.json"])
    steps = [event for event in events if isinstance(event, Progress) and event.step == f"preprocess {CONFIGURATION}"]
    # Longest first; `case_002` has the most slices.
    assert [event.item for event in steps] == ["case_002", "case_001", "case_000"]
    assert [(event.done, event.total) for event in steps] == [(1, 3), (2, 3), (3, 3)]


def test_a_second_run_changes_nothing(dataset):
    run(dataset)
    before = hash_tree(dataset.preprocessed)
    times = {file: file.stat().st_mtime_ns for file in dataset.preprocessed.rglob("*") if file.is_file()}
    assert run_again(dataset) == ((0, 3, 0, 0), [])
    assert hash_tree(dataset.preprocessed) == before
    assert {file: file.stat().st_mtime_ns for file in times} == times


def test_workers_do_not_change_the_bytes(dataset):
    run(dataset, num_workers=0)
    before = hash_tree(dataset.preprocessed)
    assert count(run(dataset, num_workers=2, force=True)) == (3, 0, 3, 0)
    assert hash_tree(dataset.preprocessed) == before


@pytest.mark.parametrize("ending", [".b2nd", "_seg.b2nd", ".pkl"])
def test_a_flipped_bit_in_an_output_is_found_and_mended(dataset, ending):
    run(dataset)
    before = hash_tree(dataset.preprocessed)
    flip(dataset.data_folder(IDENTIFIER) / f"case_001{ending}")
    assert run_again(dataset) == ((1, 2, 1, 0), [f"{IDENTIFIER}: 1 case done again: damaged files (case_001)"])
    assert hash_tree(dataset.preprocessed) == before


def test_a_lost_file_is_found_and_mended(dataset):
    run(dataset)
    before = hash_tree(dataset.preprocessed)
    (dataset.data_folder(IDENTIFIER) / "case_000.pkl").unlink()
    assert run_again(dataset) == ((1, 2, 1, 0), [f"{IDENTIFIER}: 1 case done again: lost files (case_000)"])
    assert hash_tree(dataset.preprocessed) == before


def test_a_changed_input_costs_one_case(dataset):
    run(dataset)
    write_raw_case(dataset.raw, 1, shape=(13, 14, 16), seed=5)
    said = [f"{IDENTIFIER}: 1 case done again: other images or labels (case_001)"]
    assert run_again(dataset) == ((1, 2, 1, 0), said)
    copied = dataset.ground_truth / "case_001.nii.gz"
    assert hash_file(copied) == hash_file(dataset.raw / "labelsTr" / "case_001.nii.gz")


def test_new_cases_are_added_and_the_others_stay(dataset):
    run(dataset)
    before = hash_tree(dataset.data_folder(IDENTIFIER))
    write_raw_case(dataset.raw, 7)
    write_description(dataset.raw, num_cases=4)
    assert run_again(dataset) == ((1, 3, 0, 0), [])
    after = hash_tree(dataset.data_folder(IDENTIFIER))
    assert before.items() <= after.items() and len(after) == len(before) + 3


def test_removed_cases_are_removed_and_said(dataset):
    run(dataset)
    for file in (*(dataset.raw / "imagesTr").glob("case_001*"), *(dataset.raw / "labelsTr").glob("case_001*")):
        file.unlink()
    write_description(dataset.raw, num_cases=2)
    said = [f"{IDENTIFIER}: 1 case removed, no longer in the dataset (case_001)"]
    assert run_again(dataset) == ((0, 2, 0, 1), said)
    assert not [name for name in hash_tree(dataset.preprocessed) if "case_001" in name]
    assert set(read_manifest(dataset.manifest(IDENTIFIER)).cases) == {"case_000", "case_002"}


def test_a_plan_edit_that_decides_the_voxels_redoes_all(dataset):
    run(dataset)
    write_plan(dataset, spacing=[1.0, 1.0, 1.0])
    reason = "the plan's preprocessing settings have changed (case_000, case_001, case_002)"
    assert run_again(dataset) == ((3, 0, 3, 0), [f"{IDENTIFIER}: 3 cases done again: {reason}"])
    assert run_again(dataset) == ((0, 3, 0, 0), [])


def test_a_plan_edit_that_does_not_decide_the_voxels_redoes_nothing(dataset):
    run(dataset)
    write_plan(dataset, spacing=[1.5, 1.0, 1.0], batch_size=7, patch_size=[8, 16, 16])
    assert run_again(dataset) == ((0, 3, 0, 0), [])


def test_another_version_of_the_preprocessing_redoes_all(dataset, monkeypatch):
    run(dataset)
    monkeypatch.setattr(stage, "ENGINE_VERSION", stage.ENGINE_VERSION + 1)
    counts, said = run_again(dataset)
    assert counts == (3, 0, 3, 0) and "the preprocessing itself has changed" in said[0]


def test_another_set_of_labels_redoes_all_but_other_names_do_not(dataset):
    run(dataset)
    content = json.loads(dataset.dataset_json.read_text())
    dataset.dataset_json.write_text(json.dumps(content | {"labels": {"background": 0, "small": 1, "large": 2}}))
    assert run_again(dataset)[0] == (0, 3, 0, 0)
    dataset.dataset_json.write_text(json.dumps(content | {"labels": content["labels"] | {"third": 3}}))
    counts, said = run_again(dataset)
    assert counts == (3, 0, 3, 0) and "the labels in dataset.json have changed" in said[0]


def test_a_manifest_of_the_first_schema_is_done_again(dataset):
    run(dataset)
    manifest = json.loads(dataset.manifest(IDENTIFIER).read_text())
    old = {"schema": 1, "settings": manifest["settings"], "cases": {"case_000": {"sha256": "ab"}}}
    dataset.manifest(IDENTIFIER).write_text(json.dumps(old))
    counts, said = run_again(dataset)
    assert counts == (3, 0, 3, 0) and "of an earlier version" in said[0]
    assert run_again(dataset) == ((0, 3, 0, 0), [])


def test_force_does_everything_again(dataset):
    run(dataset)
    before = hash_tree(dataset.preprocessed)
    assert run_again(dataset, force=True)[0] == (3, 0, 3, 0)
    assert hash_tree(dataset.preprocessed) == before


def test_files_that_belong_to_no_case_are_swept_away(dataset):
    run(dataset)
    before = hash_tree(dataset.preprocessed)
    folder = dataset.data_folder(IDENTIFIER)
    (folder / "case_009.b2nd").write_bytes(b"half")
    (folder / ".stu-tmp-x").touch()
    dataset.scratch_folder(IDENTIFIER).mkdir()
    (dataset.scratch_folder(IDENTIFIER) / "case_001.b2nd").write_bytes(b"half")
    (dataset.preprocessed / f".stu-tmp-{IDENTIFIER}.manifest.json-abc.json").touch()
    (dataset.ground_truth / ".stu-tmp-case_001.nii.gz-abc").touch()
    assert run_again(dataset) == ((0, 3, 0, 0), [])
    assert hash_tree(dataset.preprocessed) == before
    assert not dataset.scratch_folder(IDENTIFIER).exists()


def test_temporary_files_of_other_commands_stay(dataset):
    (dataset.preprocessed / ".stu-tmp-stuBPlans.json-abc.json").touch()
    run(dataset)
    assert (dataset.preprocessed / ".stu-tmp-stuBPlans.json-abc.json").exists()


def test_a_damaged_case_costs_only_itself_and_is_named(dataset):
    image = dataset.raw / "imagesTr" / "case_001_0000.nii.gz"
    good = image.read_bytes()
    image.write_bytes(good[:-50])
    with pytest.raises(DataError, match="1 of 3 cases could not be preprocessed") as caught:
        run(dataset)
    assert len(caught.value.details) == 1 and caught.value.details[0].startswith("case_001: ")
    assert set(read_manifest(dataset.manifest(IDENTIFIER)).cases) == {"case_000", "case_002"}
    assert not dataset.journal(IDENTIFIER).exists()
    image.write_bytes(good)
    assert run_again(dataset) == ((1, 2, 0, 0), [])


def test_a_folder_of_another_tool_is_used_when_complete_and_never_touched(dataset):
    run(dataset)
    dataset.manifest(IDENTIFIER).unlink()
    before = hash_tree(dataset.preprocessed)
    counts, said = run_again(dataset)
    assert counts == (0, 3, 0, 0) and "preprocessed by another tool" in said[0]
    assert hash_tree(dataset.preprocessed) == before
    (dataset.data_folder(IDENTIFIER) / "case_002.pkl").unlink()
    with pytest.raises(DataError, match="another tool lacks 1 of 3 cases"):
        run(dataset)


def test_ids_with_gaps_are_consecutive_in_the_ground_truth(tmp_path):
    from stu_pipeline.datasets.reading import read_label_map

    with use_workspace(tmp_path):
        dataset = write_planned_dataset(tmp_path, num_cases=2, label_ids=(0, 3, 300))
        run(dataset)
        before = hash_tree(dataset.preprocessed)
        copied = read_label_map(dataset.ground_truth / "case_000.nii.gz").array
        assert sorted(set(copied.ravel().tolist())) == [0, 1, 2]
        assert run_again(dataset) == ((0, 2, 0, 0), [])
        flip(dataset.ground_truth / "case_001.nii.gz")
        run(dataset)
    assert hash_tree(dataset.preprocessed) == before


def test_a_killed_worker_is_named_with_its_case_and_the_others_are_kept(dataset):
    def kill_the_worker_once(event):
        if isinstance(event, Progress) and event.step == f"preprocess {CONFIGURATION}" and event.done == 1:
            for process in multiprocessing.active_children():
                os.kill(process.pid, signal.SIGKILL)

    config = PreprocessConfig(dataset=str(dataset.raw), plan_name=PLAN_NAME, num_workers=1)
    with pytest.raises(MemoryLimitError, match="1 of 3 cases could not be preprocessed") as caught:
        preprocess(config, listen=kill_the_worker_once)
    assert "worker process for 'case_001' was killed by signal 9 (SIGKILL)" in caught.value.details[0]
    assert caught.value.exit_code == 6
    assert run_again(dataset) == ((1, 2, 0, 0), [])


def test_one_case_that_does_not_fit_the_memory_is_refused_up_front(dataset, monkeypatch):
    from stu_pipeline import host

    monkeypatch.setattr(host, "measure_free_ram_gib", lambda: 0.001)
    with pytest.raises(MemoryLimitError, match=r"case 'case_002' needs about \d+\.\d GiB of memory, 0\.0 GiB are free"):
        run(dataset, num_workers=1)


def test_a_second_run_at_the_same_time_is_refused(dataset):
    with hold_lock(dataset.preprocess_lock, what="test"), pytest.raises(LockedError, match="in use by process"):
        run(dataset)


def test_workers_below_zero_are_a_usage_error():
    with pytest.raises(UsageError, match="workers must be at least 0"):
        PreprocessConfig(dataset="1", plan_name="x", num_workers=-1)
