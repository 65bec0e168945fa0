"""Every path of the project, and how a dataset is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.workspace import (
    RunPaths,
    find_dataset,
    fold_folder,
    list_dataset_names,
    open_workspace,
    use_workspace,
)

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "STU_WORKSPACE")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch, tmp_path):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def raw(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    for name in ("Dataset004_Hippocampus", "Dataset701_Liver", "Dataset1234_Many"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    (tmp_path / "raw" / "notes").mkdir()
    (tmp_path / "raw" / "Dataset900_File").write_text("not a folder")
    return tmp_path / "raw"


def test_without_variables_everything_lies_in_one_folder_here(tmp_path):
    workspace = open_workspace()
    root = tmp_path / "stu_workspace"
    assert (workspace.raw, workspace.preprocessed, workspace.results) == (
        root / "nnUNet_raw",
        root / "nnUNet_preprocessed",
        root / "nnUNet_results",
    )
    assert not root.exists()  # looking makes nothing


def test_stu_workspace_moves_what_is_not_set_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("STU_WORKSPACE", "elsewhere")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "big" / "results"))
    workspace = open_workspace()
    assert workspace.raw == tmp_path / "elsewhere" / "nnUNet_raw"
    assert workspace.results == tmp_path / "big" / "results"


def test_an_empty_variable_counts_as_not_set(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "  ")
    monkeypatch.setenv("STU_WORKSPACE", "")
    assert open_workspace().raw == tmp_path / "stu_workspace" / "nnUNet_raw"


def test_a_home_folder_and_a_relative_folder_are_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("nnUNet_raw", "~/raw")
    monkeypatch.setenv("nnUNet_results", "results")
    assert open_workspace().raw == tmp_path / "home" / "raw"
    assert open_workspace().results == tmp_path / "results"


def test_a_chosen_workspace_wins_inside_its_block_only(tmp_path, raw):
    with use_workspace(tmp_path / "demo") as outer:
        assert open_workspace() == outer and outer.raw == tmp_path / "demo" / "nnUNet_raw"
        with pytest.raises(RuntimeError), use_workspace(tmp_path / "inner"):
            assert open_workspace().raw == tmp_path / "inner" / "nnUNet_raw"
            raise RuntimeError
        assert open_workspace() == outer
    assert open_workspace().raw == raw


@pytest.mark.parametrize("text", ["4", "004", "Dataset004_Hippocampus"])
def test_a_dataset_is_found_by_id_and_name(raw, tmp_path, text):
    found = find_dataset(text)
    assert found.name == "Dataset004_Hippocampus" and found.raw == raw / "Dataset004_Hippocampus"
    assert found.preprocessed == tmp_path / "stu_workspace" / "nnUNet_preprocessed" / "Dataset004_Hippocampus"
    assert found.results == tmp_path / "stu_workspace" / "nnUNet_results" / "Dataset004_Hippocampus"


def test_an_id_with_four_digits_is_found(raw):
    assert find_dataset("1234").name == "Dataset1234_Many"


@pytest.mark.parametrize("text", ["{0}", "{0}/", "sub/../{0}", "./{0}"])
def test_a_dataset_is_found_by_path_and_its_folder_becomes_the_raw_root(tmp_path, text):
    folder = tmp_path / "Dataset701_Liver"
    folder.mkdir()
    (tmp_path / "sub").mkdir()
    found = find_dataset(text.format("Dataset701_Liver"))
    assert found.raw == folder and found.workspace.raw == tmp_path
    assert found.results == tmp_path / "stu_workspace" / "nnUNet_results" / "Dataset701_Liver"


def test_a_dot_means_the_folder_we_are_in(tmp_path, monkeypatch):
    folder = tmp_path / "Dataset701_Liver"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert find_dataset(".").raw == folder


def test_a_dataset_without_raw_data_is_found_through_its_preprocessed_data(tmp_path):
    (tmp_path / "stu_workspace" / "nnUNet_preprocessed" / "Dataset701_Liver").mkdir(parents=True)
    for text in ("701", "Dataset701_Liver"):
        assert find_dataset(text).name == "Dataset701_Liver"


def test_an_unknown_dataset_lists_the_known_ones(raw):
    with pytest.raises(DataError, match="dataset 'Dataset005_Heart' not found") as caught:
        find_dataset("Dataset005_Heart")
    assert "Dataset004_Hippocampus, Dataset1234_Many, Dataset701_Liver" in caught.value.hint
    assert caught.value.where == raw
    with pytest.raises(DataError, match="dataset '5' not found"):
        find_dataset("5")


def test_an_unknown_dataset_in_an_empty_workspace_says_what_to_set():
    with pytest.raises(DataError) as caught:
        find_dataset("4")
    assert caught.value.hint == "set nnUNet_raw, or give the dataset's path"


def test_an_id_of_two_datasets_is_refused_by_name(raw):
    (raw / "Dataset004_Other").mkdir()
    with pytest.raises(DataError, match="dataset id 4 fits 2 datasets: Dataset004_Hippocampus, Dataset004_Other"):
        find_dataset("4")


@pytest.mark.parametrize("name", ["liver", "Dataset7_Liver", "Dataset701-Liver", "Dataset701_", "Dataset701_a b"])
def test_a_folder_that_is_not_named_like_a_dataset_is_a_usage_error(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="is not a dataset name, expected 'DatasetNNN_Name'"):
        find_dataset(f"./{name}")


def test_a_path_that_is_not_there_says_where_it_looked(tmp_path):
    with pytest.raises(DataError, match="dataset 'Dataset701_Liver' not found") as caught:
        find_dataset("gone/Dataset701_Liver")
    assert caught.value.where == tmp_path / "gone"


def test_only_folders_named_like_datasets_are_listed(raw):
    assert list_dataset_names(open_workspace()) == ["Dataset004_Hippocampus", "Dataset1234_Many", "Dataset701_Liver"]
    with use_workspace(raw / "nowhere") as empty:
        assert list_dataset_names(empty) == []


def test_the_files_of_a_dataset_have_nnunets_names(raw):
    dataset = find_dataset("4")
    base = dataset.preprocessed
    assert dataset.dataset_json == dataset.raw / "dataset.json"
    assert dataset.fingerprint == base / "dataset_fingerprint.json"
    assert dataset.splits == base / "splits_final.json"
    assert dataset.ground_truth == base / "gt_segmentations"
    assert dataset.plan_file("stuBPlans") == base / "stuBPlans.json"
    assert dataset.data_folder("nnUNetPlans_3d_fullres") == base / "nnUNetPlans_3d_fullres"
    # Beside the data folder, never inside it: nnU-Net reads every file it finds there.
    assert dataset.manifest("nnUNetPlans_3d_fullres") == base / "nnUNetPlans_3d_fullres.manifest.json"
    assert dataset.journal("nnUNetPlans_3d_fullres") == base / "nnUNetPlans_3d_fullres.manifest.jsonl"
    assert dataset.ground_truth_manifest == base / "gt_segmentations.manifest.json"
    model = dataset.model_folder("stuBPlans", "3d_fullres")
    assert model == dataset.results / "nnUNetTrainer__stuBPlans__3d_fullres"
    assert fold_folder(model, 0) == model / "fold_0" and fold_folder(model, "all") == model / "fold_all"


def test_the_files_of_a_run_have_their_names():
    run = RunPaths(Path("fold_0"))
    named = [run.record, run.log, run.metrics, run.progress_picture, run.lock, run.checkpoint("final")]
    assert [path.name for path in named] == [
        "run.json",
        "run.log",
        "metrics.jsonl",
        "progress.png",
        ".lock",
        "checkpoint_final.pth",
    ]
    assert run.validation_summary == Path("fold_0/validation/summary.json")
