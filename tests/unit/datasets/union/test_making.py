"""One raw dataset of several: listed images, rewritten label maps, and nothing done twice."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from stu_pipeline.datasets.cases import list_training_cases
from stu_pipeline.datasets.check import check_dataset
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.datasets.partial_labels import find_partial_labels
from stu_pipeline.datasets.reading import read_label_map
from stu_pipeline.datasets.union.making import find_union, make_union
from stu_pipeline.datasets.union.request import UnionRequest
from stu_pipeline.errors import DataError, LockedError, UsageError
from stu_pipeline.log import Notice, Progress
from stu_pipeline.storage import hash_file, hold_lock
from stu_pipeline.workspace import Workspace, find_dataset
from tests.synthetic import write_tiny_dataset

BOTH = ("101", "102")


@pytest.fixture
def workspace(tmp_path):
    """A workspace with two datasets of two cases; the second has the labels 'label2' and 'liver' under 5 and 1."""
    workspace = Workspace(raw=tmp_path / "raw", preprocessed=tmp_path / "pre", results=tmp_path / "res")
    write(workspace, 101, name="A")
    folder = write(workspace, 102, name="B", file_ending=".nrrd")
    change(folder, labels={"background": 0, "liver": 1, "Label-2": 2})
    return workspace


def write(workspace, number, **facts):
    return write_tiny_dataset(workspace.raw, number, **{"num_cases": 2, "shape": (5, 6, 9), "seed": number, **facts})


def change(folder, **content):
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **content}))


def describe(folder):
    return json.loads((folder / "dataset.json").read_text())


def hash_tree(folder):
    return {str(path.relative_to(folder)): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def make(workspace, *sources, **facts):
    """Make a union and return its folder with what was said and what was written."""
    events = []
    request = UnionRequest(
        sources=sources or BOTH, **{key: value for key, value in facts.items() if key not in ("target", "num_workers")}
    )
    options = {key: value for key, value in facts.items() if key in ("target", "num_workers")}
    folder = make_union(request, workspace=workspace, listen=events.append, **options)
    said = [event.text for event in events if isinstance(event, Notice)]
    return folder, said, [event.item for event in events if isinstance(event, Progress)]


def write_mapping(tmp_path, **sources):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(sources))
    return path


def test_a_union_is_a_raw_dataset_that_passes_the_check(workspace):
    before = hash_tree(workspace.raw)
    folder, said, _ = make(workspace)
    assert folder == workspace.raw / "Dataset900_Union"
    description = read_dataset_json(folder)
    assert description.labels == {"background": 0, "label1": 1, "label2": 2, "liver": 3}
    assert [case.id for case in list_training_cases(folder, description)] == [
        f"Dataset10{number}__case_00{case}" for number in ("1_A", "2_B") for case in (0, 1)
    ]
    report = check_dataset(folder, num_workers=0)
    assert report.problems == () and report.num_cases == 4
    after = hash_tree(workspace.raw)
    assert {name: after[name] for name in before} == before
    assert sorted(path.name for path in folder.iterdir()) == ["dataset.json", "labelsTr", "stu_union.json"]
    assert "4 cases, 3 labels" in said[0] and "joined labels: label2" in said[1]


def test_images_are_listed_where_they_lie_and_label_maps_have_labels_of_the_union(workspace):
    folder, _, _ = make(workspace)
    case = describe(folder)["dataset"]["Dataset102_B__case_000"]
    source = workspace.raw / "Dataset102_B"
    assert case == {
        "images": [str(source / "imagesTr" / "case_000_0000.nrrd")],
        "label": "labelsTr/Dataset102_B__case_000.nii.gz",
    }
    before = read_label_map(source / "labelsTr" / "case_000.nrrd").array
    assert np.array_equal(read_label_map(folder / case["label"]).array, np.array([0, 3, 2])[before])


def test_a_label_that_a_source_lacks_is_unmarked_in_its_cases(workspace):
    partial = find_partial_labels(describe(make(workspace)[0]))
    assert partial is not None
    assert partial.list_marked("Dataset101_A__case_000") == (1, 2)
    assert partial.list_marked("Dataset102_B__case_001") == (2, 3)
    change(workspace.raw / "Dataset102_B", labels={"background": 0, "label1": 1, "Label-2": 2})
    assert "stu_partial_labels" not in describe(make(workspace)[0])


def test_a_union_can_be_a_source_of_a_union(workspace):
    make(workspace)
    change(write(workspace, 103, name="C"), labels={"background": 0, "liver": 1, "cord": 2})
    folder, _, _ = make(workspace, "900", "103", dataset_name="Large")
    assert find_partial_labels(describe(folder)).sources == {
        "Dataset900_Union:Dataset101_A": (1, 2),
        "Dataset900_Union:Dataset102_B": (2, 3),
        "Dataset103_C": (3, 4),
    }
    assert describe(folder)["labels"] == {"background": 0, "label1": 1, "label2": 2, "liver": 3, "cord": 4}
    assert check_dataset(folder, num_workers=0).problems == ()


def test_several_labels_that_become_one_are_marked_where_all_of_them_are(workspace, tmp_path):
    make(workspace)
    change(write(workspace, 103, name="C"), labels={"background": 0, "organ": 1, "cord": 2})
    mapping = write_mapping(tmp_path, Dataset900_Union={"organ": ["label1", "label2"]})
    folder, _, _ = make(workspace, "103", "900", union_labels=mapping, dataset_name="Large")
    assert find_partial_labels(describe(folder)).sources == {
        "Dataset103_C": (1, 2),
        "Dataset900_Union:Dataset101_A": (1,),
        "Dataset900_Union:Dataset102_B": (3,),
    }


def test_gapped_ids_regions_and_ignore_labels_of_sources_are_read(workspace, tmp_path):
    gapped = write(workspace, 103, name="C", ignore_label=True)
    change(gapped, labels={"background": 0, "liver": 1, "label2": 2, "ignore": 3})
    change(
        write(workspace, 104, name="D", regions=True), labels={"background": 0, "all": [1, 2], "liver": 1, "label2": 2},
        regions_class_order=[1, 1, 2],
    )  # fmt: skip
    folder, said, _ = make(workspace, "103", "104")
    assert describe(folder)["labels"] == {"background": 0, "liver": 1, "label2": 2, "ignore": 3}
    assert "stu_partial_labels" not in describe(folder)
    assert any("regions are left out" in text and "'all' of Dataset104_D" in text for text in said)
    assert check_dataset(folder, num_workers=0).problems == ()


def test_what_is_not_used_becomes_background_and_is_said(workspace, tmp_path):
    mapping = write_mapping(tmp_path, Dataset102_B={"liver": None})
    folder, said, _ = make(workspace, union_labels=mapping)
    label = read_label_map(folder / "labelsTr" / "Dataset102_B__case_000.nii.gz").array
    assert set(np.unique(label)) == {0, 2}
    assert "'liver' of Dataset102_B is not used: its voxels are background" in said


def test_clashes_are_refused_together_before_anything_is_written(workspace, tmp_path):
    change(workspace.raw / "Dataset101_A", labels={"background": 0, "kidney": 1, "Liver": 2})
    change(workspace.raw / "Dataset102_B", labels={"background": 0, "kidney_left": 1, "kidney_right": 2})
    mapping = write_mapping(tmp_path, Dataset102_B={"spleen": "x"})
    with pytest.raises(DataError, match="2 problems") as caught:
        make(workspace, union_labels=mapping)
    assert "'spleen'" in caught.value.details[0] and "'kidney' of 'Dataset101_A'" in caught.value.details[1]
    assert caught.value.hint == "correct 'labels.json'"
    assert not (workspace.raw / "Dataset900_Union").exists()
    with pytest.raises(DataError, match="has no side") as caught:
        make(workspace)
    assert "--union-labels FILE" in caught.value.hint


@pytest.mark.parametrize(
    ("first", "second", "keep", "expected"),
    [
        ("CT", "ct", False, "CT_zscore"),
        ("CT", "CT", True, "CT"),
        ("T1w", "t1w", False, "T1w"),
        ("CT", "MR", False, "channel_0"),
    ],
)
def test_the_channel_is_named_so_that_each_image_gets_its_own_z_score(workspace, first, second, keep, expected):
    for folder, name in (("Dataset101_A", first), ("Dataset102_B", second)):
        change(workspace.raw / folder, channel_names={"0": name})
    assert describe(make(workspace, keep_channel_names=keep)[0])["channel_names"] == {"0": expected}


def test_names_that_differ_cannot_be_kept(workspace):
    change(workspace.raw / "Dataset101_A", channel_names={"0": "CT"})
    with pytest.raises(UsageError, match="name their channels differently"):
        make(workspace, keep_channel_names=True)


def test_labels_of_a_model_come_first_and_are_unmarked_but_where_a_source_has_them(workspace):
    folder, _, _ = make(workspace, "101", labels_of=("spleen", "LABEL_2"))
    content = describe(folder)
    assert content["labels"] == {"background": 0, "spleen": 1, "LABEL_2": 2, "label1": 3}
    assert find_partial_labels(content).sources == {"Dataset101_A": (2, 3)}


def test_the_same_request_finds_its_union_and_changes_nothing(workspace):
    request = UnionRequest(sources=BOTH)
    assert find_union(request, workspace=workspace) is None
    folder, _, items = make(workspace)
    assert len(items) == 4
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again, said, items = make(workspace)
    assert again == folder and items == [] and "this union already" in said[0]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert find_union(request, workspace=workspace) == folder


def test_what_was_added_to_dataset_json_stays(workspace):
    folder, _, _ = make(workspace)
    change(folder, licence="none")
    assert make(workspace)[2] == [] and describe(folder)["licence"] == "none"


def test_changed_new_and_removed_cases_are_followed(workspace):
    folder, _, _ = make(workspace)
    source = workspace.raw / "Dataset101_A"
    shutil.copy(source / "labelsTr" / "case_000.nii.gz", source / "labelsTr" / "case_001.nii.gz")
    shutil.copy(source / "labelsTr" / "case_000.nii.gz", source / "labelsTr" / "case_009.nii.gz")
    shutil.copy(source / "imagesTr" / "case_000_0000.nii.gz", source / "imagesTr" / "case_009_0000.nii.gz")
    for path in (workspace.raw / "Dataset102_B").rglob("case_000*"):
        path.unlink()
    request = UnionRequest(sources=BOTH)
    assert find_union(request, workspace=workspace) is None
    _, _, items = make(workspace)
    assert items == ["Dataset101_A__case_001", "Dataset101_A__case_009"]
    assert sorted(describe(folder)["dataset"]) == sorted(path.name[:-7] for path in (folder / "labelsTr").iterdir())
    assert find_union(request, workspace=workspace) == folder


def test_sources_that_were_moved_are_followed_without_writing_a_label_map(workspace, tmp_path):
    folder, _, _ = make(workspace)
    planned = workspace.preprocessed / folder.name
    planned.mkdir(parents=True)
    (planned / "dataset.json").write_text("{}")
    moved = shutil.move(workspace.raw / "Dataset101_A", tmp_path / "Dataset101_A")
    again, _, items = make(workspace, str(moved), "102")
    assert again == folder and items == [] and check_dataset(folder, num_workers=0).problems == ()


def test_a_run_that_stopped_is_continued(workspace):
    bad = workspace.raw / "Dataset102_B" / "labelsTr" / "case_001.nrrd"
    good = bad.read_bytes()
    bad.write_bytes(b"nothing")
    with pytest.raises(DataError, match="1 label map cannot be used"):
        make(workspace)
    folder = workspace.raw / "Dataset900_Union"
    assert not (folder / "dataset.json").exists()
    (folder / "labelsTr" / ".stu-tmp-Dataset102_B-x.nii.gz").write_bytes(b"left by a kill")
    bad.write_bytes(good)
    assert make(workspace)[2] == ["Dataset102_B__case_001"]
    assert len(list((folder / "labelsTr").iterdir())) == 4
    fresh = Workspace(raw=workspace.raw / "fresh", preprocessed=workspace.raw, results=workspace.raw)
    whole, _, _ = make(workspace, target=fresh)
    assert hash_tree(whole) == hash_tree(folder)


def test_a_journal_that_a_kill_left_goes(workspace):
    folder, _, _ = make(workspace)
    before = hash_tree(folder)
    (folder / "stu_union.jsonl").write_text("torn")
    assert make(workspace)[2] == [] and hash_tree(folder) == before


def test_another_request_replaces_a_union_that_was_never_planned(workspace):
    make(workspace, dataset_name="Organs")
    folder, said, _ = make(workspace, dataset_name="Organs", labels_of=("spleen",))
    assert "replaced" in said[0] and list(describe(folder)["labels"])[1] == "spleen"
    write(workspace, 103, name="C")
    make(workspace, "101", "103", dataset_name="Organs")
    assert (
        sorted(path.name[:12] for path in (folder / "labelsTr").iterdir())
        == ["Dataset101_A"] * 2 + ["Dataset103_C"] * 2
    )


def test_another_request_is_refused_under_the_name_of_a_planned_union(workspace):
    folder, _, _ = make(workspace, dataset_name="Organs")
    before = hash_tree(folder)
    planned = find_dataset("900", workspace).preprocessed
    planned.mkdir(parents=True)
    (planned / "dataset.json").write_text("{}")
    with pytest.raises(UsageError, match="'Dataset900_Organs' is another union, and it was planned") as caught:
        make(workspace, dataset_name="Organs", labels_of=("spleen",))
    assert caught.value.details == ("other labels", "labels of the sources become others")
    with pytest.raises(UsageError, match="it was planned"):
        find_union(UnionRequest(sources=BOTH, dataset_name="Organs", labels_of=("spleen",)), workspace=workspace)
    assert hash_tree(folder) == before
    assert make(workspace, labels_of=("spleen",))[0].name == "Dataset901_Union"
    assert make(workspace, dataset_name="Organs")[2] == []


def test_a_damaged_record_is_refused(workspace):
    folder, _, _ = make(workspace, dataset_name="Organs")
    (folder / "stu_union.json").write_text('{"schema": 1, "identity": []}')
    with pytest.raises(DataError, match="'Dataset900_Organs' is no usable union"):
        make(workspace, dataset_name="Organs")


def test_equal_images_are_a_warning(workspace):
    first, second = workspace.raw / "Dataset101_A", write(workspace, 103, name="C")
    shutil.copy(first / "imagesTr" / "case_000_0000.nii.gz", second / "imagesTr" / "case_001_0000.nii.gz")
    assert "hold 1 equal image" in make(workspace, "101", "103")[1][0]


def test_the_union_can_be_written_elsewhere(workspace, tmp_path):
    scratch = Workspace(raw=tmp_path / "a", preprocessed=tmp_path / "b", results=tmp_path / "c")
    assert make(workspace, target=scratch)[0] == scratch.raw / "Dataset900_Union"
    assert not (workspace.raw / "Dataset900_Union").exists()


def test_worker_processes_write_the_same(workspace, tmp_path):
    scratch = Workspace(raw=tmp_path / "a", preprocessed=tmp_path / "b", results=tmp_path / "c")
    folder, _, items = make(workspace, num_workers=2)
    assert len(items) == 4 and hash_tree(folder) == hash_tree(make(workspace, target=scratch)[0])


def test_one_union_is_made_at_a_time(workspace):
    with hold_lock(workspace.import_lock, what="the folder"), pytest.raises(LockedError):
        make(workspace)


def test_pictures_get_label_maps_as_pictures(workspace):
    for number in (105, 106):
        write(workspace, number, shape=(6, 9), file_ending=(".png", ".bmp")[number - 105])
    folder, _, _ = make(workspace, "105", "106")
    assert describe(folder)["file_ending"] == ".png"
    assert check_dataset(folder, num_workers=0).problems == ()


def test_names_and_paths_that_cannot_be_listed_are_refused(workspace, tmp_path):
    folder = write_tiny_dataset(tmp_path / "my$data", 103, num_cases=1, shape=(5, 6, 9))
    with pytest.raises(DataError, match="expected a plain path"):
        make(workspace, "101", str(folder))
    long = write(workspace, 104, name="L" * 100, num_cases=1)
    for part in ("imagesTr/case_000_0000", "labelsTr/case_000"):
        (long / f"{part}.nii.gz").rename(long / f"{part.replace('case_000', 'c' * 30)}.nii.gz")
    with pytest.raises(DataError, match="at most 128 characters"):
        make(workspace, "101", "104")
