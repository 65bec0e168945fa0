"""The flags of `stu train`: what they become, and what is refused."""

from __future__ import annotations

import pytest

from stu_pipeline.cli import run
from stu_pipeline.cli.train_options import parse_trackers
from stu_pipeline.errors import UsageError
from stu_pipeline.training.config import TrainConfig


@pytest.mark.parametrize(
    ("names", "trackers"),
    [(None, None), ([], None), (["none"], ()), (["mlflow"], ("mlflow",)), (["wandb", "mlflow"], ("wandb", "mlflow"))],
)
def test_trackers_are_read(names, trackers):
    assert parse_trackers(names) == trackers


def test_none_beside_a_tracker_is_refused():
    with pytest.raises(UsageError, match="stands alone"):
        parse_trackers(["none", "mlflow"])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"augment": "gpu"}, "augment must be one of device, cpu, none"),
        ({"compile": "yes"}, "compile must be one of auto, on, off"),
        ({"mirror": "x"}, r"mirror must be auto, none, all or axes like 0,1,2 .*, got 'x'"),
        ({"mirror": "0,0"}, "mirror"),
        ({"mirror": "3"}, "mirror"),
        ({"mirror": "0,"}, "mirror"),
        ({"mirror": ""}, "mirror"),
        ({"augment": ""}, "augment"),
        ({"checkpoint_minutes": -1.0}, "checkpoint_minutes must not be negative, got -1.0"),
        ({"checkpoint_minutes": float("nan")}, "checkpoint_minutes"),
        ({"warmup_epochs": float("inf")}, "warmup_epochs"),
        ({"num_gpus": 0}, "num_gpus must be at least 1, got 0"),
        ({"patience": 0}, "patience"),
        ({"ema_decay": 1.0}, "ema_decay must be between 0 and 1, got 1.0"),
        ({"ema_decay": 0.0}, "ema_decay"),
        ({"trackers": ("neptune",)}, "tracker must be one of tensorboard, mlflow, wandb, got 'neptune'"),
        ({"trackers": ("mlflow", "mlflow")}, "named twice"),
    ],
)
def test_senseless_values_are_refused_with_what_was_given(values, words):
    with pytest.raises(UsageError, match=words):
        TrainConfig(dataset="4", **values)


def test_sensible_values_are_taken():
    config = TrainConfig(
        dataset="4",
        augment="cpu",
        compile="off",
        mirror="0,2",
        checkpoint_minutes=0,
        num_gpus=8,
        warmup_epochs=0.5,
        ema_decay=0.999,
        patience=1,
        trackers=(),
    )
    assert config.mirror == "0,2" and config.trackers == ()


@pytest.mark.parametrize(
    "flags",
    [
        "--augment gpu",
        "--compile 1",
        "--mirror left",
        "--checkpoint-minutes -1",
        "--gpus 0",
        "--warmup -1",
        "--ema 2",
        "--patience 0",
        "--track neptune",
        "--track none --track wandb",
        "--watch --fold 0,1",
    ],
)
def test_a_wrong_flag_is_one_clear_line_and_exit_code_2(flags, capsys):
    assert run(["train", "4", *flags.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and "Traceback" not in err


def test_right_flags_reach_the_search_for_the_dataset(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = (
        "--augment cpu --compile off --mirror 0,1 --checkpoint-minutes 5 --gpus 2 --warmup 5 --ema 0.99 --patience 9"
    )
    assert run(["train", "4", *flags.split(), "--track", "none"]) == 3
    assert "dataset '4' not found" in capsys.readouterr().err
