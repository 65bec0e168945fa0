"""Several datasets become one with `stu plan --union`, which is planned and trained as any other."""

from __future__ import annotations

import json

import pytest

from tests.integration.commands import PLAN, hash_tree, make_workspace, narrow_plan, run_stock, run_stu
from tests.kills import python_command
from tests.synthetic import write_tiny_dataset

pytestmark = pytest.mark.integration

_PLAN = ("--union", "--dataset-name", "Both", "--scale", "S", "--gpu-memory", 8, "--workers", 0)
_TRAIN = ("--fold", 0, "--epochs", 1, "--iterations", 2, "--device", "cpu", "--workers", 0, "-q")
_MAKE = """
import json, sys
from pathlib import Path
from stu_pipeline.datasets.union.making import make_union
from stu_pipeline.datasets.union.request import UnionRequest
from stu_pipeline.workspace import Workspace
raw = Path(sys.argv[2])
workspace = Workspace(raw=raw, preprocessed=raw.parent / "pre", results=raw.parent / "res")
make_union(UnionRequest(sources=tuple(json.loads(sys.argv[1]))), workspace=workspace)
"""


@pytest.fixture
def workspace(tmp_path):
    """Two datasets with one label in common, of two formats and with one and two channels."""
    workspace = make_workspace(tmp_path)
    write_tiny_dataset(workspace.raw, 101, name="One", num_cases=3)
    folder = write_tiny_dataset(
        workspace.raw, 102, name="Two", num_cases=3, num_channels=2, file_ending=".nrrd", seed=1
    )
    _describe(folder, labels={"background": 0, "liver": 1, "LABEL-2": 2})
    return workspace


def _describe(folder, **content):
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **content}))


def test_a_union_is_planned_trained_and_scored_by_what_is_marked(workspace, capsys):
    before = hash_tree(workspace.raw)
    assert run_stu(workspace, "plan", "101", "102:1", *_PLAN, "--dry-run") == 0
    assert hash_tree(workspace.raw) == before and not workspace.preprocessed.exists()
    assert run_stu(workspace, "plan", "101", "102:1", *_PLAN) == 0
    raw, preprocessed = (root / "Dataset900_Both" for root in (workspace.raw, workspace.preprocessed))
    content = json.loads((preprocessed / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "label1": 1, "label2": 2, "liver": 3}
    plan = json.loads((preprocessed / f"{PLAN}.json").read_text())
    assert plan["configurations"]["3d_fullres"]["normalization_schemes"] == ["ZScoreNormalization"]
    assert len(list((preprocessed / "gt_segmentations").glob("*.nii.gz"))) == 6
    after = hash_tree(raw)
    assert run_stu(workspace, "plan", "101", "102:1", *_PLAN) == 0
    assert hash_tree(raw) == after
    narrow_plan(preprocessed / f"{PLAN}.json")
    assert run_stu(workspace, "train", "900", *_TRAIN) == 0
    summary = json.loads(next(workspace.results.rglob("fold_0/validation/summary.json")).read_text())
    for entry in summary["metric_per_case"]:
        is_first = "Dataset101_One__" in entry["prediction_file"]
        scored = {label for label, found in entry["metrics"].items() if found["Dice"] is not None}
        assert scored <= ({"1", "2"} if is_first else {"2", "3"})
    capsys.readouterr()
    assert run_stu(workspace, "plan", "101", "102:0", *_PLAN) == 2
    assert "'Dataset900_Both' is another union, and it was planned" in capsys.readouterr().err


def test_what_clashes_is_refused_before_any_work(workspace, tmp_path, capsys):
    _describe(workspace.raw / "Dataset101_One", labels={"background": 0, "kidney": 1, "label2": 2})
    _describe(workspace.raw / "Dataset102_Two", labels={"background": 0, "kidney_left": 1, "kidney_right": 2})
    before = hash_tree(workspace.raw)
    assert run_stu(workspace, "plan", "101", "102", *_PLAN) == 3
    assert "pick channels, for example 'Dataset102_Two:0'" in capsys.readouterr().err
    assert run_stu(workspace, "plan", "101", "102:0", *_PLAN) == 3
    assert "'kidney' of 'Dataset101_One' has no side" in capsys.readouterr().err
    mapping = tmp_path / "labels.json"
    mapping.write_text('{"Dataset102_Two": {"kidney_left": "kidney", "liver": "x"}}')
    assert run_stu(workspace, "plan", "101", "102:0", *_PLAN, "--union-labels", mapping) == 3
    assert "the mapping names label 'liver'" in capsys.readouterr().err
    assert hash_tree(workspace.raw) == before and not workspace.preprocessed.exists()
    mapping.write_text('{"Dataset102_Two": {"kidney": ["kidney_left", "kidney_right"]}}')
    arguments = ("plan", "101", "102:0", *_PLAN, "--union-labels", mapping, "--no-preprocess")
    assert run_stu(workspace, *arguments) == 0
    labels = json.loads((workspace.raw / "Dataset900_Both" / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "kidney": 1, "label2": 2}


def test_a_union_that_was_killed_is_continued_and_ends_up_the_same(tmp_path):
    workspace, whole = make_workspace(tmp_path / "killed"), make_workspace(tmp_path / "whole")
    for number in (101, 102):
        write_tiny_dataset(tmp_path, number, num_cases=10, shape=(40, 40, 40), seed=number)
    sources = [str(tmp_path / f"Dataset{number}_Tiny") for number in (101, 102)]
    folder = workspace.raw / "Dataset900_Union"
    for count in (1, 8, 15):
        command = python_command(_MAKE, json.dumps(sources), workspace.raw)
        command.kill_when(lambda count=count: len(list(folder.glob("labelsTr/*.nii.gz"))) >= count)
    assert python_command(_MAKE, json.dumps(sources), workspace.raw).finish()[0] == 0
    assert python_command(_MAKE, json.dumps(sources), whole.raw).finish()[0] == 0
    assert hash_tree(folder) == hash_tree(whole.raw / "Dataset900_Union")
    assert sorted(path.name for path in folder.iterdir()) == ["dataset.json", "labelsTr", "stu_union.json"]


@pytest.mark.slow
def test_stock_commands_plan_and_preprocess_a_union(workspace):
    assert run_stu(workspace, "plan", "101", "102:0", *_PLAN, "--no-preprocess") == 0
    options = ("-d", 900, "-c", "3d_fullres", "-np", 1, "-npfp", 1, "--verify_dataset_integrity")
    run_stock(workspace, "nnUNetv2_plan_and_preprocess", *options)
    data = workspace.preprocessed / "Dataset900_Both" / "nnUNetPlans_3d_fullres"
    assert len(list(data.glob("Dataset10*__case_00*.pkl"))) == 6
