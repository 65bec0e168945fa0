"""A ranking as a command: order, verdict, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stu_pipeline import PreprocessConfig, preprocess
from stu_pipeline.cli import run
from stu_pipeline.training.ranking.rank import name_candidates
from stu_pipeline.workspace import use_workspace
from tests.planned import CONFIGURATION, PLAN_NAME, write_plan, write_planned_dataset
from tests.published_files import write_published_model


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("rank")
    dataset = write_planned_dataset(root, num_cases=5)
    write_plan(dataset, spacing=[1.5, 1.0, 1.0], patch_size=[32, 32, 64])
    with use_workspace(root):
        preprocess(
            PreprocessConfig(
                dataset=str(dataset.raw), plan_name=PLAN_NAME, configurations=(CONFIGURATION,), num_workers=0
            )
        )
    dataset.preprocessed_dataset_json.write_bytes(dataset.dataset_json.read_bytes())
    cases = [f"case_{index:03d}" for index in range(5)]
    dataset.splits.write_text(json.dumps([{"train": cases[:4], "val": cases[4:]}]), encoding="utf-8")
    write_published_model(root / "small.model", scale="S")
    return root


def rank(root, *words):
    with use_workspace(root):
        return run(["weights", "rank", "901", *words, "--plan", PLAN_NAME, "--device", "cpu", "--json"])


def test_files_of_one_name_are_told_apart_by_their_folders():
    paths = [Path("/x/a/fold_0/final.pth"), Path("/x/b/fold_0/final.pth")]
    assert name_candidates(paths) == ("a/fold_0/final.pth", "b/fold_0/final.pth")
    assert name_candidates([Path("/x/small.model"), Path("/y/base.model")]) == ("small.model", "base.model")


def test_candidates_and_untrained_weights_are_ranked_on_training_cases(workspace, capsys):
    assert rank(workspace, str(workspace / "small.model"), "--cases", "4", "--patches", "1") == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in document["rows"]} == {"small.model", "untrained"}
    assert sum(row["chance_best"] for row in document["rows"]) == pytest.approx(1)
    # The case that the fold validates on is not looked at.
    assert set(document["cases"]) <= {f"case_{index:03d}" for index in range(4)} and document["verdict"]


def test_a_file_that_is_no_network_is_refused(workspace, capsys):
    torch.save({"state_dict": {"fc.weight": torch.zeros(2, 2)}}, workspace / "other.model")
    assert rank(workspace, str(workspace / "other.model")) == 4
    assert "error:" in capsys.readouterr().err


def test_a_file_that_is_named_twice_is_refused(workspace):
    assert rank(workspace, str(workspace / "small.model"), str(workspace / "small.model")) == 2
