"""Stock nnU-Net uses what we make, and we use what stock nnU-Net makes, in both directions and on the CPU."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from tests.integration.commands import (
    DATASET_ID,
    PLAN,
    Tiny,
    make_workspace,
    measure_agreement,
    read_labels,
    run_stock,
    run_stu,
)
from tests.integration.stock import plan_stock, train_stock

pytestmark = pytest.mark.integration

SHARE_OF_EQUAL_VOXELS = 0.999


def test_stock_trains_our_plan_and_we_predict_with_it(tiny: Tiny, stock_fold: Path, tmp_path: Path):
    plan = json.loads((stock_fold / "plans.json").read_text())
    architecture = plan["configurations"]["3d_fullres"]["architecture"]
    assert architecture["network_class_name"] == "stu_pipeline.networks.stunet.STUNet"
    _predict(tiny, stock_fold, tmp_path / "ours")
    labels = read_labels(tmp_path / "ours")
    assert list(labels) == ["test_000.nii.gz", "test_001.nii.gz"]
    assert {0} < set.union(*labels.values()) <= {0, 1, 2}


def test_stock_predicts_the_same_masks_with_our_fold(tiny: Tiny, trained: Path, masks: Path, tmp_path: Path):
    # Workers of their own: they get plans and configurations through pickle.
    _predict_stock(tiny, tmp_path, PLAN, "-npp", 1, "-nps", 1)
    assert measure_agreement(masks, tmp_path) >= SHARE_OF_EQUAL_VOXELS


def test_stock_continues_our_fold(tiny: Tiny, trained: Path, tmp_path: Path):
    model = _copy_model(trained, tmp_path)
    ours = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=True)
    seen = {}

    def look(trainer):
        states = trainer.optimizer.state_dict()["state"]
        seen["momentum"] = {index: state["momentum_buffer"].clone() for index, state in states.items()}
        seen["epoch"] = trainer.current_epoch

    workspace = make_workspace(tiny.workspace.raw.parent, results=tmp_path)
    trainer = train_stock(workspace, tiny.dataset, PLAN, num_epochs=3, continue_training=True, look=look)
    assert type(trainer).__module__.startswith("nnunetv2.")
    assert seen["epoch"] == ours["current_epoch"] == 2
    expected = ours["optimizer_state"]["state"]
    assert len(expected) == len(seen["momentum"]) > 0
    assert all(torch.equal(seen["momentum"][index], expected[index]["momentum_buffer"]) for index in expected)

    after = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert after["current_epoch"] == 3
    losses = after["logging"]["train_losses"]
    assert losses[:2] == ours["logging"]["train_losses"] and len(losses) == 3 and math.isfinite(losses[2])
    assert after["logging"]["lrs"][2] < ours["logging"]["lrs"][1]
    _predict(tiny, model, tmp_path / "masks")


def test_we_continue_a_fold_of_stock(tiny: Tiny, stock_fold: Path, tmp_path: Path):
    model = _copy_model(stock_fold, tmp_path)
    fold = model / "fold_0"
    stock = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    workspace = make_workspace(tiny.workspace.raw.parent, results=tmp_path)
    size = ("--epochs", 3, "--iterations", 2, "--device", "cpu", "--workers", 0)
    assert run_stu(workspace, "train", DATASET_ID, "--scale", "S", "--fold", 0, *size) == 0
    ours = torch.load(fold / "checkpoint_final.pth", weights_only=True)
    assert (stock["current_epoch"], ours["current_epoch"]) == (2, 3)
    losses = ours["logging"]["train_losses"]
    assert losses[:2] == pytest.approx(stock["logging"]["train_losses"]) and math.isfinite(losses[2])
    assert [json.loads(line)["epoch"] for line in (fold / "metrics.jsonl").read_text().splitlines()] == [2]
    assert (fold / "validation" / "summary.json").is_file()


def test_an_exported_model_installs_and_predicts_the_same(tiny: Tiny, trained: Path, masks: Path, tmp_path: Path):
    archive = tmp_path / "model.zip"
    elsewhere = make_workspace(tmp_path / "other")
    elsewhere.results.mkdir(parents=True)
    choice = ("-d", DATASET_ID, "-c", "3d_fullres", "-p", PLAN, "-f", 0)
    run_stock(tiny.workspace, "nnUNetv2_export_model_to_zip", *choice, "-o", archive)
    run_stock(elsewhere, "nnUNetv2_install_pretrained_model_from_zip", archive)
    installed = tiny.model_folder(results=elsewhere.results)
    _predict(tiny, installed, tmp_path / "masks")
    assert measure_agreement(masks, tmp_path / "masks") == 1


@pytest.mark.parametrize(
    ("planner", "network"),
    [("ExperimentPlanner", "PlainConvUNet"), ("nnUNetPlannerResEncM", "ResidualEncoderUNet")],
    ids=["plain", "residual encoder"],
)
def test_we_predict_with_a_stock_model(tiny: Tiny, planner: str, network: str, tmp_path: Path):
    plan = plan_stock(tiny.workspace, DATASET_ID, planner)
    results = tmp_path / "results"
    # Enough steps that few voxels are undecided: stock adds logits up in float16.
    train_stock(make_workspace(tiny.workspace.raw.parent, results=results), tiny.dataset, plan, num_iterations=8)
    model = tiny.model_folder(plan, results=results)
    configurations = json.loads((model / "plans.json").read_text())["configurations"]
    assert configurations["3d_fullres"]["architecture"]["network_class_name"].endswith(f".{network}")
    _predict(tiny, model, tmp_path / "ours")
    _predict_stock(tiny, tmp_path / "stock", plan, results=results)
    assert measure_agreement(tmp_path / "ours", tmp_path / "stock") >= SHARE_OF_EQUAL_VOXELS


@pytest.fixture(scope="module")
def stock_fold(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of our plan, trained by stock nnU-Net."""
    results = tmp_path_factory.mktemp("stock_results")
    workspace = make_workspace(tiny.workspace.raw.parent, results=results)
    trainer = train_stock(workspace, tiny.dataset, PLAN)
    assert type(trainer.network).__module__ == "stu_pipeline.networks.stunet"
    return tiny.model_folder(results=results)


def _predict(tiny: Tiny, model: Path, output: Path) -> None:
    flags = ("-m", model, "--device", "cpu", "--precision", "fp32", "--workers", 0)
    assert run_stu(tiny.workspace, "predict", "-i", tiny.raw / "imagesTs", "-o", output, *flags) == 0


def _predict_stock(tiny: Tiny, output: Path, plan: str, *flags: object, results: Path | None = None) -> None:
    workspace = make_workspace(tiny.workspace.raw.parent, results=results)
    model = ("-d", DATASET_ID, "-p", plan, "-c", "3d_fullres", "-f", 0, "-device", "cpu")
    files = ("-i", tiny.raw / "imagesTs", "-o", output)
    run_stock(workspace, "nnUNetv2_predict", *files, *model, *(flags or ("-npp", 0, "-nps", 0)))


def _copy_model(model: Path, results: Path) -> Path:
    """Copy a model folder into other results, without the best checkpoint."""
    target = results / model.parent.name / model.name
    shutil.copytree(model, target, ignore=shutil.ignore_patterns("checkpoint_best.pth"))
    return target
