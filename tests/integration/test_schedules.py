"""Schedules of a whole training: early stopping, averaged weights, warm-up, and more epochs afterwards."""

from __future__ import annotations

import json

import pytest
import torch

from stu_pipeline.workspace import Workspace
from tests.integration.commands import DATASET_ID, run_stu

pytestmark = pytest.mark.integration

_SIZE = ("--iterations", 2, "--device", "cpu", "--workers", 0, "--seed", 1)


def _train(workspace: Workspace, fold: int, *flags: object) -> list[dict]:
    """Train a fold and return its epochs."""
    assert run_stu(workspace, "train", DATASET_ID, "--fold", fold, *_SIZE, *flags) == 0
    text = (_find_fold(workspace, fold) / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _find_fold(workspace: Workspace, fold: int):
    return next(workspace.results.glob(f"Dataset*/nnUNetTrainer__*__3d_fullres/fold_{fold}"))


def test_a_training_without_progress_stops_when_its_patience_ends_and_stays_finished(narrow: Workspace):
    # A learning rate of almost nothing: the Dice of random patches has its best epoch early.
    flags = ("--epochs", 40, "--lr", 1e-9, "--patience", 2)
    rows = _train(narrow, 0, *flags)
    assert len(rows) < 40
    moving = [row["ema_dice"] for row in rows]
    assert moving.index(max(moving)) == len(moving) - 3
    assert _train(narrow, 0, *flags) == rows
    content = torch.load(_find_fold(narrow, 0) / "checkpoint_final.pth", weights_only=True)
    assert content["current_epoch"] == len(rows) and content["stu"]["position"]["is_complete"]


def test_averaged_weights_are_scored_stored_and_used(narrow: Workspace, tmp_path):
    rows = _train(narrow, 1, "--epochs", 2, "--ema", 0.9)
    assert all(0 <= row["ema_weights_dice"] <= 1 for row in rows)
    fold = _find_fold(narrow, 1)
    averaged, trained = (
        torch.load(fold / f"checkpoint_{kind}.pth", weights_only=True)["network_weights"] for kind in ("ema", "final")
    )
    assert averaged.keys() == trained.keys()
    assert any(not torch.equal(averaged[name], trained[name]) for name in trained)
    assert (fold / "validation_ema" / "summary.json").is_file() and (fold / "validation" / "summary.json").is_file()
    images = next(narrow.raw.glob("Dataset*/imagesTr"))
    flags = ("--folds", 1, "--checkpoint", "ema", "--tta", "none", "--device", "cpu", "--workers", 0)
    assert run_stu(narrow, "predict", "-i", images, "-o", tmp_path / "masks", "-m", fold.parent, *flags) == 0


def test_the_learning_rate_rises_and_then_falls_as_nnunets(narrow: Workspace):
    rows = _train(narrow, 2, "--epochs", 4, "--warmup", 2, "--lr", 0.01)
    assert rows[0]["learning_rate"] == pytest.approx(0.01 / 4)
    assert [row["learning_rate"] for row in rows[2:]] == pytest.approx([0.01 * 0.5**0.9, 0.01 * 0.25**0.9])


def test_a_finished_fold_is_left_alone_until_it_is_forced(narrow: Workspace):
    assert len(_train(narrow, 3, "--epochs", 1)) == 1
    before = (_find_fold(narrow, 3) / "checkpoint_final.pth").stat().st_mtime_ns
    assert len(_train(narrow, 3, "--epochs", 1)) == 1
    assert (_find_fold(narrow, 3) / "checkpoint_final.pth").stat().st_mtime_ns == before
    assert len(_train(narrow, 3, "--epochs", 2, "--force")) == 2
