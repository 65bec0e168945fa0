"""The command line from a folder of volumes to scores, interrupted and continued, in every configuration."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stu_pipeline.workspace import Workspace
from tests.integration.commands import (
    DATASET_ID,
    PLAN,
    Tiny,
    hash_tree,
    make_workspace,
    narrow_plan,
    read_labels,
    run_stu,
    start_stu,
)
from tests.synthetic import write_tiny_dataset

pytestmark = pytest.mark.integration

_ONE_STEP = ("--epochs", 1, "--iterations", 1, "--device", "cpu", "--workers", 0, "-q")
_WAIT_S = 300


def test_a_prediction_is_scored(tiny: Tiny, masks: Path, tmp_path: Path, capfd):
    files = ("-r", tiny.raw / "labelsTs", "-p", masks, "-o", tmp_path / "summary.json")
    assert run_stu(tiny.workspace, "evaluate", *files, "--json", "--workers", 0) == 0
    result = json.loads(capfd.readouterr().out)
    # Two epochs of three steps learn the brighter of the two boxes.
    assert 0.2 < result["mean_dice"] <= 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [Path(case["prediction_file"]).name for case in summary["metric_per_case"]] == [
        "test_000.nii.gz",
        "test_001.nii.gz",
    ]


def test_a_run_leaves_what_it_promises(trained: Path):
    names = {path.name for path in (trained / "fold_0").iterdir()}
    assert {"checkpoint_final.pth", "checkpoint_best.pth", "metrics.jsonl", "progress.png", "run.json"} <= names
    assert "checkpoint_latest.pth" not in names
    assert not [name for name in names if name.startswith(".stu-tmp") or name.endswith(".partial")]
    assert {"plans.json", "dataset.json", "dataset_fingerprint.json"} <= {path.name for path in trained.iterdir()}
    rows = [json.loads(line) for line in (trained / "fold_0" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1]
    summary = json.loads((trained / "fold_0" / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2


@pytest.mark.parametrize("kind", ["best", "final"])
def test_a_checkpoint_is_data_and_keeps_the_flags(trained: Path, kind: str):
    checkpoint = torch.load(trained / "fold_0" / f"checkpoint_{kind}.pth", weights_only=True)
    settings = checkpoint["stu"]["settings"]
    assert (settings["num_epochs"], settings["num_iterations"]) == (2, 3)
    assert (settings["learning_rate"], settings["seed"]) == (0.02, 1)
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert checkpoint["init_args"]["configuration"] == "3d_fullres"


def test_planning_again_changes_nothing(tiny: Tiny, capfd):
    before = hash_tree(tiny.preprocessed)
    assert run_stu(tiny.workspace, "plan", DATASET_ID, "--scale", "S", "--gpu-memory", 8, "--workers", 0) == 0
    out = capfd.readouterr().out
    assert "plan (unchanged)" in out and "0 cases preprocessed, 6 were there" in out
    assert hash_tree(tiny.preprocessed) == before


def test_a_stopped_planning_keeps_its_cases_and_continues(tmp_path: Path, capfd):
    workspace = make_workspace(tmp_path)
    raw = write_tiny_dataset(workspace.raw, 905, num_cases=16, shape=(32, 40, 48))
    folder = workspace.preprocessed / raw.name
    command = ("plan", 905, "--scale", "S", "--gpu-memory", 8, "--workers", 1)
    running = start_stu(workspace, *command)
    _wait_for(lambda: list(folder.glob("nnUNetPlans_3d_fullres/*.pkl")), running)
    running.send_signal(signal.SIGTERM)
    output, _ = running.communicate(timeout=_WAIT_S)
    assert running.returncode == 143, output
    assert "error: stopped by signal 15" in output and "Traceback" not in output
    assert _end_processes(running.pid)
    assert run_stu(workspace, *command) == 0
    out = capfd.readouterr().out
    assert "0 cases preprocessed" not in out and " 0 were there" not in out
    assert len(list(folder.glob("nnUNetPlans_3d_fullres/*.b2nd"))) == 32
    assert not list(folder.rglob(".stu-tmp-*")) and not list(folder.glob(".*.partial"))


def test_a_finished_fold_is_not_trained_again(tiny: Tiny, trained: Path, capfd):
    before = hash_tree(trained)
    assert run_stu(tiny.workspace, "train", DATASET_ID, "--scale", "S", "--fold", 0, "--epochs", 5) == 0
    assert "already complete" in capfd.readouterr().out
    assert hash_tree(trained) == before


def test_force_trains_a_finished_fold_again(narrow: Workspace):
    arguments = ("train", DATASET_ID, "--fold", 1, "--configuration", "2d", *_ONE_STEP)
    assert run_stu(narrow, *arguments) == 0
    final = _fold(narrow, "2d", 1) / "checkpoint_final.pth"
    first = final.read_bytes()
    assert run_stu(narrow, *arguments, "--force") == 0
    assert final.read_bytes() != first


def test_a_stopped_training_continues_where_it_was(narrow: Workspace):
    size = ("--epochs", 3, "--iterations", 30, "--device", "cpu", "--workers", 1)
    command = ("train", DATASET_ID, "--fold", 2, *size)
    fold = _fold(narrow, "3d_fullres", 2)
    running = start_stu(narrow, *command)
    _wait_for(lambda: _has_lines(fold / "metrics.jsonl"), running)
    assert len(_list_processes(running.pid)) > 1, "the loader runs in a process of its own"
    running.send_signal(signal.SIGTERM)
    output, _ = running.communicate(timeout=_WAIT_S)
    assert running.returncode == 143, output
    assert "error: stopped by signal 15 at epoch 1, state saved" in output and "Traceback" not in output
    assert _end_processes(running.pid)
    stopped = torch.load(fold / "checkpoint_latest.pth", weights_only=True)
    assert stopped["current_epoch"] == 1
    assert not (fold / "checkpoint_final.pth").exists()

    assert run_stu(narrow, *command) == 0
    finished = torch.load(fold / "checkpoint_final.pth", weights_only=True)
    assert finished["current_epoch"] == 3
    assert finished["logging"]["train_losses"][0] == stopped["logging"]["train_losses"][0]
    assert [json.loads(line)["epoch"] for line in (fold / "metrics.jsonl").read_text().splitlines()] == [0, 1, 2]
    continued = json.loads((fold / "run.json").read_text())["continued_from"]
    assert continued == {"checkpoint": "checkpoint_latest.pth", "epoch": 1, "step": stopped["stu"]["position"]["step"]}


def test_a_killed_training_continues_from_its_last_checkpoint(narrow: Workspace):
    command = ("train", DATASET_ID, "--fold", 3, "--epochs", 3, "--iterations", 30, "--device", "cpu", "--workers", 0)
    fold = _fold(narrow, "3d_fullres", 3)
    running = start_stu(narrow, *command)
    _wait_for(lambda: _has_lines(fold / "metrics.jsonl"), running)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate(timeout=_WAIT_S)
    best = fold / "checkpoint_best.pth"
    begun = torch.load(best, weights_only=True)["current_epoch"] if best.exists() else 0
    assert run_stu(narrow, *command) == 0
    continued = json.loads((fold / "run.json").read_text())["continued_from"]
    assert (continued["epoch"] if continued else 0) == begun
    assert torch.load(fold / "checkpoint_final.pth", weights_only=True)["current_epoch"] == 3
    assert not list(fold.glob(".stu-tmp-*"))


def test_all_folds_in_2d_give_one_summary_and_one_ensemble(narrow: Workspace, tiny: Tiny, tmp_path: Path, capfd):
    arguments = ("train", DATASET_ID, "--configuration", "2d", *_ONE_STEP)
    model = _fold(narrow, "2d", 0).parent
    merged = model / "crossval_results_folds_0_1_2_3_4" / "summary.json"
    shutil.rmtree(model, ignore_errors=True)
    assert run_stu(narrow, *arguments, "--fold", "0,1,2,3") == 0
    assert not merged.exists()
    assert run_stu(narrow, *arguments, "--fold", 4) == 0
    assert f"all folds are there, summary: {merged}" in capfd.readouterr().out
    cases = json.loads(merged.read_text())["metric_per_case"]
    assert sorted(Path(case["reference_file"]).name for case in cases) == [f"case_{i:03d}.nii.gz" for i in range(6)]

    choice = ("-d", DATASET_ID, "--plan", PLAN, "--configuration", "2d")
    run = ("-i", tiny.raw / "imagesTs" / "test_000_0000.nii.gz", "-o", tmp_path / "masks", "--device", "cpu")
    assert run_stu(narrow, "predict", *run, *choice) == 0
    assert "folds 0,1,2,3,4 (final)" in capfd.readouterr().err
    assert list(read_labels(tmp_path / "masks")) == ["test_000.nii.gz"]


def test_a_cascade_trains_and_predicts(tiny: Tiny, tmp_path: Path, capfd):
    workspace = _plan_cascade(tiny, tmp_path)
    train = ("train", DATASET_ID, *_ONE_STEP)
    too_early = (*train, "--configuration", "3d_cascade_fullres", "--fold", 0)
    assert run_stu(workspace, *too_early) == 3
    error = capfd.readouterr().err
    assert "needs predictions of '3d_lowres'" in error and "hint: train all folds of 3d_lowres first" in error

    assert run_stu(workspace, *train, "--configuration", "3d_lowres", "--fold", "0,1") == 0
    handed_on = _fold(workspace, "3d_lowres", 0).parent / "predicted_next_stage" / "3d_cascade_fullres"
    assert sorted(path.stem for path in handed_on.glob("*.b2nd")) == [f"case_{i:03d}" for i in range(4)]
    assert run_stu(workspace, *too_early) == 0
    for configuration in ("3d_lowres", "3d_cascade_fullres"):
        output = tmp_path / "masks" / configuration
        choice = ("-d", DATASET_ID, "--configuration", configuration, "--folds", 0, "--device", "cpu")
        assert run_stu(workspace, "predict", "-i", tiny.raw / "imagesTs", "-o", output, *choice) == 0
        assert list(read_labels(output)) == ["test_000.nii.gz", "test_001.nii.gz"]


@pytest.mark.parametrize("kind", ["regions", "ignore_label"])
def test_regions_and_an_ignore_label_train_and_predict(tmp_path: Path, kind: str, capfd):
    workspace = make_workspace(tmp_path)
    raw = write_tiny_dataset(
        workspace.raw, 902, name="Special", num_test=1, num_labels=3, shape=(20, 24, 28), **{kind: True}
    )
    assert run_stu(workspace, "plan", 902, "--scale", "S", "--gpu-memory", 8, "--workers", 0, "-q") == 0
    narrow_plan(workspace.preprocessed / raw.name / f"{PLAN}.json")
    size = ("--epochs", 2, "--iterations", 5, "--device", "cpu", "--workers", 0, "-q")
    capfd.readouterr()
    assert run_stu(workspace, "train", 902, "--fold", 0, *size, "--json") == 0
    names = ["region1", "region2", "core"] if kind == "regions" else ["label1", "label2", "label3"]
    assert list(json.loads(capfd.readouterr().out)["dice"]) == names
    summary = workspace.results / raw.name / f"nnUNetTrainer__{PLAN}__3d_fullres" / "fold_0/validation/summary.json"
    keys = ["(1, 2, 3)", "(2, 3)", "(3,)"] if kind == "regions" else ["1", "2", "3"]
    assert list(json.loads(summary.read_text())["mean"]) == keys
    masks = tmp_path / "masks"
    assert run_stu(workspace, "predict", "-i", raw / "imagesTs", "-o", masks, "-d", 902, "--device", "cpu", "-q") == 0
    labels = read_labels(masks)["test_000.nii.gz"]
    assert labels <= {0, 1, 2, 3}, "the ignore label is never predicted"
    assert run_stu(workspace, "evaluate", "-r", raw / "labelsTs", "-p", masks, "--workers", 0, "-q") == 0


def _plan_cascade(tiny: Tiny, root: Path) -> Workspace:
    """Plan four cases in two folds, and add the low resolution by hand: so small volumes get none."""
    workspace = make_workspace(root)
    raw = workspace.raw / tiny.dataset
    shutil.copytree(tiny.raw, raw)
    for index in (4, 5):
        (raw / "imagesTr" / f"case_{index:03d}_0000.nii.gz").unlink()
        (raw / "labelsTr" / f"case_{index:03d}.nii.gz").unlink()
    description = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps(description | {"numTraining": 4}))
    names = [f"case_{index:03d}" for index in range(4)]
    splits = [{"train": names[:2], "val": names[2:]}, {"train": names[2:], "val": names[:2]}]
    (raw / "splits_final.json").write_text(json.dumps(splits))
    plan = ("plan", DATASET_ID, "--scale", "S", "--gpu-memory", 8, "--workers", 0, "-q")
    assert run_stu(workspace, *plan, "--no-preprocess") == 0

    path = workspace.preprocessed / tiny.dataset / f"{PLAN}.json"
    document = json.loads(path.read_text())
    configurations = document["configurations"]
    low = {"data_identifier": f"{PLAN}_3d_lowres", "spacing": [3.0, 1.5, 1.5], "batch_dice": False}
    low |= {"median_image_size_in_voxels": [16, 19, 21], "patch_size": [16, 20, 24]}
    configurations["3d_lowres"] = configurations["3d_fullres"] | low | {"next_stage": "3d_cascade_fullres"}
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    path.write_text(json.dumps(document))
    narrow_plan(path)
    from stu_pipeline import PreprocessConfig, preprocess
    from stu_pipeline.workspace import use_workspace

    with use_workspace(root):
        preprocess(
            PreprocessConfig(
                dataset=tiny.dataset, plan_name=PLAN, configurations=("3d_lowres", "3d_fullres"), num_workers=0
            )
        )
    return workspace


def _fold(workspace: Workspace, configuration: str, fold: int) -> Path:
    (dataset,) = (path.name for path in workspace.preprocessed.iterdir())
    return workspace.results / dataset / f"nnUNetTrainer__{PLAN}__{configuration}" / f"fold_{fold}"


def _wait_for(is_reached: Callable[[], object], running: subprocess.Popen[str]) -> None:
    end = time.monotonic() + _WAIT_S
    while not is_reached():
        if running.poll() is not None:
            pytest.fail(f"it ended early:\n{running.communicate()[0]}")
        assert time.monotonic() < end, f"nothing happened in {_WAIT_S} s"
        time.sleep(0.02)


def _has_lines(path: Path) -> bool:
    """Tell whether an epoch is over: its line is written."""
    return path.is_file() and path.read_text().endswith("\n")


def _end_processes(session: int) -> bool:
    """Wait a moment for what ends by itself once its parent is gone, and tell whether nothing is left."""
    end = time.monotonic() + 10
    while _list_processes(session) and time.monotonic() < end:
        time.sleep(0.05)
    return not _list_processes(session)


def _list_processes(session: int) -> list[int]:
    """List the living processes of a session by id."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of_session = stat.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(of_session) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found
