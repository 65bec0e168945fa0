"""A dataset whose cases mark some of the labels each, from `stu plan` to the scores of the validation."""

from __future__ import annotations

import json

import pytest

from tests.integration.commands import DATASET_ID, PLAN, make_workspace, narrow_plan, run_stu
from tests.synthetic import write_tiny_dataset

pytestmark = pytest.mark.integration

_CASES = [f"case_{index:03d}" for index in range(6)]


def _write_table(file, cases):
    content = json.loads(file.read_text())
    content["stu_partial_labels"] = {
        "sources": {"Dataset801_First": [1], "Dataset802_Second": [1, 2]},
        "cases": {case: "Dataset802_Second" if case in cases[::2] else "Dataset801_First" for case in cases},
    }
    file.write_text(json.dumps(content))


def test_unmarked_labels_have_no_score_and_a_case_without_a_source_is_refused(tmp_path, capsys):
    workspace = make_workspace(tmp_path)
    raw = write_tiny_dataset(workspace.raw, DATASET_ID, num_cases=6)
    _write_table(raw / "dataset.json", _CASES)
    assert run_stu(workspace, "plan", DATASET_ID, "--scale", "S", "--gpu-memory", 8, "--workers", 0, "-q") == 0
    preprocessed = workspace.preprocessed / raw.name
    narrow_plan(preprocessed / f"{PLAN}.json")
    train = ("train", DATASET_ID, "--fold", 0, "--epochs", 1, "--iterations", 2, "--device", "cpu", "--workers", 0)
    assert run_stu(workspace, *train) == 0
    fold = next(workspace.results.glob("Dataset*/nnUNetTrainer__*/fold_0"))
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    scores = {entry["prediction_file"][-15:-7]: entry["metrics"]["2"] for entry in summary["metric_per_case"]}
    assert len(scores) == 2
    for case, found in scores.items():
        is_marked = case in _CASES[::2]
        assert all((value is None) != is_marked for value in found.values())
    num_marked = sum(case in _CASES[::2] for case in scores)
    assert summary["stu"]["partial_labels"]["num_cases_marked"] == {"1": 2, "2": num_marked} and num_marked < 2
    # nnU-Net's own loader names the cases of its samples too.
    assert run_stu(workspace, *train, "--augment", "cpu", "--force") == 0
    _write_table(preprocessed / "dataset.json", _CASES[:-1])
    capsys.readouterr()
    assert run_stu(workspace, *train, "--force") == 3
    assert "case 'case_005' is not in it" in capsys.readouterr().err
