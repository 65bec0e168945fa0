"""Foreign datasets become datasets of ours, without a copy and without a second one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from stu_pipeline.datasets.cases import list_training_cases
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.datasets.forms.folder_pair import FolderPair
from stu_pipeline.datasets.forms.importing import find_import, import_dataset
from stu_pipeline.datasets.label_ids import LabelIds
from stu_pipeline.datasets.reading import read_image
from stu_pipeline.errors import DataError, LockedError, UsageError
from stu_pipeline.log import Notice
from stu_pipeline.storage import hash_file, hold_lock
from stu_pipeline.workspace import Workspace, find_dataset
from tests.foreign_forms import write_pair, write_task
from tests.synthetic import write_tiny_dataset, write_volume

FOUR = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}


@pytest.fixture
def workspace(tmp_path):
    root = tmp_path / "workspace"
    return Workspace(raw=root / "raw", preprocessed=root / "preprocessed", results=root / "results")


def pair_of(folders, *channels):
    return FolderPair(images=folders[0], labels=folders[1], channels=channels)


def hash_tree(folder):
    return {str(path.relative_to(folder)): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def describe(folder):
    return json.loads((folder / "dataset.json").read_text())


def test_a_decathlon_task_is_described_where_it_lies(tmp_path, workspace):
    source = write_task(tmp_path / "Task04_Hippocampus")
    before = hash_tree(source)
    folder = import_dataset(source, workspace=workspace)
    assert folder == workspace.raw / "Dataset004_Hippocampus" and hash_tree(source) == before
    assert sorted(path.name for path in folder.iterdir()) == ["dataset.json", "stu_import.json"]
    description = read_dataset_json(folder)
    assert description.channel_names == {0: "MRI"} and description.num_training == 3
    cases = list_training_cases(folder, description)
    assert [case.id for case in cases] == ["case_000", "case_001", "case_002"]
    assert cases[0].image_files == (source / "imagesTr" / "case_000.nii.gz",)
    assert find_dataset("4", workspace).raw == folder
    assert describe(folder)["licence"] == "none"


def test_an_nnunet_v1_task_lists_a_file_per_channel(tmp_path, workspace):
    source = write_task(tmp_path / "Task043_BraTS", num_cases=2, modality=FOUR, is_v1=True)
    folder = import_dataset(source, workspace=workspace)
    assert folder.name == "Dataset043_BraTS" and not (folder / "imagesTr").exists()
    (first, _) = list_training_cases(folder, read_dataset_json(folder))
    assert [path.name for path in first.image_files] == [f"case_000_{index:04d}.nii.gz" for index in range(4)]


def test_channels_in_one_file_are_split_into_the_dataset(tmp_path, workspace):
    source = write_task(tmp_path / "Task01_BrainTumour", num_cases=2, modality=FOUR)
    before = hash_tree(source)
    folder = import_dataset(source, workspace=workspace)
    assert hash_tree(source) == before
    (first, _) = list_training_cases(folder, read_dataset_json(folder))
    assert first.image_files[3] == folder / "imagesTr" / "case_000_0003.nii.gz"
    plain = write_task(tmp_path / "Task43_Plain", num_cases=2, modality=FOUR, is_v1=True)
    for path in first.image_files:
        expected = read_image(plain / "imagesTr" / path.name)
        assert np.array_equal(read_image(path).array, expected.array)


def test_a_folder_pair_gets_labels_from_its_voxels(tmp_path, workspace):
    folders = write_pair(tmp_path, ("a", "b"), values=(0, 3, 300))
    folder = import_dataset(pair_of(folders), workspace=workspace, name="Mine")
    assert folder.name == "Dataset500_Mine"
    found = read_dataset_json(folder)
    assert found.raw["labels"] == {"background": 0, "label_3": 3, "label_300": 300}
    assert found.label_ids == LabelIds((0, 3, 300)) and found.channel_names == {0: "image"}


def test_the_same_source_finds_its_dataset_and_changes_nothing(tmp_path, workspace):
    folders = write_pair(tmp_path)
    task = write_task(tmp_path / "Task04_Hippocampus", num_cases=2, modality=FOUR)
    made = [
        import_dataset(pair_of(folders, "CT"), workspace=workspace, name="Mine"),
        import_dataset(task, workspace=workspace),
    ]
    stamps = {path: path.stat().st_mtime_ns for path in workspace.raw.rglob("*") if path.name != ".import.lock"}
    events = []
    again = [
        import_dataset(pair_of(folders), workspace=workspace, name="Mine", listen=events.append),
        import_dataset(task, workspace=workspace, listen=events.append),
    ]
    assert again == made and events == []
    assert import_dataset(pair_of(folders), workspace=workspace, name="Dataset500_Mine") == made[0]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert describe(made[0])["channel_names"] == {"0": "CT"}, "given once, kept"


def test_new_cases_are_found_and_edits_are_kept(tmp_path, workspace):
    folders = write_pair(tmp_path, ("a", "b"))
    folder = import_dataset(pair_of(folders), workspace=workspace, name="Mine")
    content = describe(folder)
    content["labels"] = {"background": 0, "liver": 1, "label_2": 2}
    content["channel_names"] = {"0": "T2"}
    (folder / "dataset.json").write_text(json.dumps(content))
    write_pair(tmp_path, ("c",), values=(0, 1, 2, 3))
    import_dataset(pair_of(folders), workspace=workspace, name="Mine")
    after = describe(folder)
    assert after["labels"] == content["labels"] and after["channel_names"] == {"0": "T2"}
    assert list(after["dataset"]) == ["a", "b", "c"] and after["numTraining"] == 3


def test_new_labels_of_new_cases_are_found_when_nothing_was_edited(tmp_path, workspace):
    folders = write_pair(tmp_path, ("a",))
    folder = import_dataset(pair_of(folders), workspace=workspace, name="Mine")
    write_volume(folders[1] / "a.nii.gz", np.full((6, 8, 12), 7, np.uint8))
    import_dataset(pair_of(folders), workspace=workspace, name="Mine")
    assert describe(folder)["labels"] == {"background": 0, "label_7": 7}


def test_other_channel_names_replace_the_old_ones(tmp_path, workspace):
    folders = write_pair(tmp_path, ("a",))
    folder = import_dataset(pair_of(folders), workspace=workspace, name="Mine")
    import_dataset(pair_of(folders, "CT"), workspace=workspace, name="Mine")
    assert describe(folder)["channel_names"] == {"0": "CT"}


def test_another_source_under_a_name_is_refused(tmp_path, workspace):
    first, second = write_pair(tmp_path / "x", ("a",)), write_pair(tmp_path / "y", ("a",))
    import_dataset(pair_of(first), workspace=workspace, name="Mine")
    for name in ("Mine", "Dataset500_Other"):
        with pytest.raises(UsageError, match="'Dataset500_Mine' is another dataset"):
            import_dataset(pair_of(second), workspace=workspace, name=name)
    assert import_dataset(pair_of(second), workspace=workspace, name="Other").name == "Dataset501_Other"
    assert import_dataset(pair_of(first), workspace=workspace, name="Dataset009_Same").name == "Dataset009_Same"


def test_a_dataset_that_was_not_imported_is_never_touched(tmp_path, workspace):
    stock = write_tiny_dataset(workspace.raw, 4, name="Hippocampus", num_cases=1)
    before = hash_tree(stock)
    with pytest.raises(UsageError, match="'Dataset004_Hippocampus' is another dataset"):
        import_dataset(write_task(tmp_path / "Task04_Hippocampus"), workspace=workspace)
    assert hash_tree(stock) == before


def test_a_taken_id_gives_way_to_a_free_one(tmp_path, workspace):
    write_tiny_dataset(workspace.raw, 4, name="Heart", num_cases=1)
    folder = import_dataset(write_task(tmp_path / "Task04_Hippocampus"), workspace=workspace)
    assert folder.name == "Dataset500_Hippocampus"


@pytest.mark.parametrize("name", ["", "../evil", "a b", "-rf", "/tmp/x", "a\n", "Dataset5_X", "x" * 200])
def test_names_that_are_none_are_refused(tmp_path, workspace, name):
    folders = write_pair(tmp_path, ("a",))
    if name == "Dataset5_X":  # fewer than three digits: a word like any other
        assert import_dataset(pair_of(folders), workspace=workspace, name=name).name == "Dataset500_Dataset5_X"
        return
    with pytest.raises(UsageError, match="not allowed"):
        import_dataset(pair_of(folders), workspace=workspace, name=name)
    assert not list(workspace.raw.glob("Dataset*")) and not (tmp_path / "evil").exists()


def test_hounsfield_units_are_said_and_not_guessed(tmp_path, workspace):
    folders = write_pair(tmp_path, ("a",))
    write_volume(folders[0] / "a.nii.gz", np.linspace(-1024, 1500, 6 * 8 * 12).reshape(6, 8, 12).astype(np.float32))
    events = []
    folder = import_dataset(pair_of(folders), workspace=workspace, name="Mine", listen=events.append)
    (warning,) = [event.text for event in events if isinstance(event, Notice) and event.is_warning]
    assert warning.endswith("look like Hounsfield units; if this is CT, say so: --channels CT")
    assert describe(folder)["channel_names"] == {"0": "image"}


def test_nothing_is_written_for_a_source_that_cannot_be_used(tmp_path, workspace):
    folders = write_pair(tmp_path, ("a",))
    write_volume(folders[1] / "a.nii.gz", np.full((6, 8, 12), 0.5, np.float32))
    with pytest.raises(DataError, match="not a whole number"):
        import_dataset(pair_of(folders), workspace=workspace, name="Mine")
    assert not list(workspace.raw.glob("Dataset*"))
    strange = tmp_path / "$HOME"
    shutil.copytree(write_task(tmp_path / "Task04_X", num_cases=1), strange / "Task04_X")
    with pytest.raises(DataError, match="expected a plain path"):
        import_dataset(strange / "Task04_X", workspace=workspace)
    assert not list(workspace.raw.glob("Dataset*"))


def test_a_killed_import_is_continued(tmp_path, workspace):
    task = write_task(tmp_path / "Task04_X", num_cases=2, modality=FOUR)
    damaged = task / "imagesTr" / "case_001.nii.gz"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-30])
    with pytest.raises(DataError, match=r"case_001\.nii\.gz"):
        import_dataset(task, workspace=workspace)
    folder = workspace.raw / "Dataset004_X"
    assert not (folder / "dataset.json").exists()
    first = folder / "imagesTr" / "case_000_0000.nii.gz"
    stamp = first.stat().st_mtime_ns
    damaged.write_bytes(whole)
    assert import_dataset(task, workspace=workspace) == folder
    assert first.stat().st_mtime_ns == stamp, "what was split stays"
    assert len(list_training_cases(folder, read_dataset_json(folder))) == 2


def test_a_lost_split_file_is_made_again(tmp_path, workspace):
    task = write_task(tmp_path / "Task04_X", num_cases=1, modality=FOUR)
    folder = import_dataset(task, workspace=workspace)
    lost = folder / "imagesTr" / "case_000_0002.nii.gz"
    before = lost.read_bytes()
    lost.unlink()
    import_dataset(task, workspace=workspace)
    assert lost.read_bytes() == before


def test_an_import_is_found_without_writing(tmp_path, workspace):
    folders = write_pair(tmp_path, ("a",))
    assert find_import(pair_of(folders), workspace=workspace, name="Mine") is None
    assert not workspace.raw.exists()
    folder = import_dataset(pair_of(folders), workspace=workspace, name="Mine")
    assert find_import(pair_of(folders), workspace=workspace, name="Mine") == folder
    assert find_import(pair_of(folders, "CT"), workspace=workspace, name="Mine") is None
    write_pair(tmp_path, ("b",))
    assert find_import(pair_of(folders), workspace=workspace, name="Mine") is None


def test_one_import_at_a_time(tmp_path, workspace):
    task = write_task(tmp_path / "Task04_X", num_cases=1)
    with hold_lock(workspace.import_lock, what="test"), pytest.raises(LockedError):
        import_dataset(task, workspace=workspace)


def test_a_v2_dataset_is_returned_as_it_is(tmp_path, workspace):
    folder = write_tiny_dataset(tmp_path, num_cases=1)
    assert import_dataset(folder, workspace=workspace) == folder
    assert not Path(workspace.raw).exists()


def test_workers_give_the_same_dataset(tmp_path, workspace):
    folders = write_pair(tmp_path, values=(0, 2, 5))
    folder = import_dataset(pair_of(folders), workspace=workspace, name="Mine", num_workers=1)
    assert describe(folder)["labels"] == {"background": 0, "label_2": 2, "label_5": 5}
