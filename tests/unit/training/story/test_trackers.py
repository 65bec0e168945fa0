"""Trackers: the epochs reach them once, and their failures stop nothing."""

from __future__ import annotations

import math
import sys

import pytest

from stu_pipeline.errors import UsageError
from stu_pipeline.nnunet.events import EpochDone
from stu_pipeline.training.config import TRACKERS
from stu_pipeline.training.story.trackers import Tracker, list_scalars, open_trackers, require_trackers


def make_epoch(epoch, **changes):
    values = {
        "epoch": epoch,
        "num_epochs": 10,
        "train_loss": -0.5,
        "val_loss": math.nan,
        "dice": {"liver": 0.9, "spleen (left)+": 0.5, "none": None},
        "mean_dice": 0.7,
        "ema_dice": 0.6,
        "learning_rate": 0.01,
        "elapsed_s": 30.0,
        "data_wait": 0.25,
        "is_best": False,
    }
    return EpochDone(**{**values, **changes})


def test_what_is_a_number_has_a_name_and_what_is_none_is_left_out():
    scalars = list_scalars(make_epoch(0, gpu_memory_gib=8.5))
    assert scalars["loss/training"] == -0.5 and scalars["gpu/memory_gib"] == 8.5
    assert scalars["dice/label/liver"] == 0.9 and scalars["dice/label/spleen _left__"] == 0.5
    assert all(math.isfinite(value) for value in scalars.values())
    missing = {"loss/validation", "dice/label/none", "gpu/utilization", "dice/averaged_weights"}
    assert missing.isdisjoint(scalars)


def hide(monkeypatch, *names):
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_was_asked_for_and_is_missing_is_a_usage_error_with_the_command(name, tmp_path, monkeypatch):
    hide(monkeypatch, name)
    with pytest.raises(UsageError) as caught:
        open_trackers((name,), tmp_path, first_epoch=0)
    assert f"'{name}'" in str(caught.value) and f"pip install 'stu-pipeline[{name}]'" in caught.value.hint
    with pytest.raises(UsageError):
        require_trackers([name])


def test_by_default_nothing_is_missed_where_nothing_is_installed(tmp_path, monkeypatch):
    hide(monkeypatch, *TRACKERS)
    assert open_trackers(None, tmp_path, first_epoch=0) == []
    assert open_trackers((), tmp_path, first_epoch=0) == []
    assert list(tmp_path.iterdir()) == []


class Sink:
    """A program that fails from some epoch on."""

    failures = (OSError,)

    def __init__(self, fails_at):
        self.fails_at = fails_at
        self.heard = []

    def write(self, epoch, scalars):
        self.heard.append(epoch)
        if epoch >= self.fails_at:
            raise OSError("server gone\nsecond line")

    def close(self):
        self.heard.append("closed")


def test_a_failing_tracker_is_told_once_and_left_alone():
    sink, told = Sink(fails_at=1), []
    tracker = Tracker("mlflow", sink, listen=told.append)
    for epoch in range(4):
        tracker.add(make_epoch(epoch))
    tracker.close()
    assert sink.heard == [0, 1] and len(told) == 1 and told[0].is_warning
    assert told[0].text == "tracker 'mlflow' failed, the training goes on without it: server gone"


def test_a_tracker_is_closed_once():
    sink = Sink(fails_at=9)
    tracker = Tracker("mlflow", sink)
    tracker.add(make_epoch(0))
    tracker.close()
    tracker.close()
    tracker.add(make_epoch(1))
    assert sink.heard == [0, "closed"]


def test_a_tracker_that_cannot_be_opened_is_told_and_left_out(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    (tmp_path / "tensorboard").write_text("in the way", encoding="utf-8")
    told = []
    assert open_trackers(("tensorboard",), tmp_path, first_epoch=0, listen=told.append) == []
    assert len(told) == 1 and told[0].is_warning


def run_twice(names, folder):
    """Train epochs 0 to 3, be killed after the checkpoint of epoch 2, and train 2 to 5."""
    told = []
    for epochs in (range(4), range(2, 6)):
        facts = {"fold": 0, "plan (name)": "stuSPlans"}
        trackers = open_trackers(names, folder, first_epoch=epochs[0], facts=facts, listen=told.append)
        for epoch in epochs:
            for tracker in trackers:
                tracker.add(make_epoch(epoch))
        for tracker in trackers:
            tracker.close()
    assert told == [] and len(trackers) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_is_the_default_and_shows_each_epoch_once_after_a_resume(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_twice(None, tmp_path)
    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    assert [item.step for item in shown.Scalars("dice/label/liver")] == [0, 1, 2, 3, 4, 5]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_its_files_in_the_run_folder_and_each_epoch_once(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "fold_0"
    run_twice(("mlflow",), folder)
    (metric,) = (folder / "mlflow").rglob("metrics/loss/training")
    assert [int(line.split()[2]) for line in metric.read_text().splitlines()] == [0, 1, 2, 3, 4, 5]
    assert [path.name for path in tmp_path.iterdir()] == ["fold_0"]


@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_the_run_in_its_folder_when_its_own_settings_say_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run_twice(("wandb",), tmp_path)
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2
