"""`stu train`: reading folds, and one line per epoch."""

from __future__ import annotations

import pytest

from stu_pipeline.cli.train import TrainingView, parse_folds
from stu_pipeline.errors import UsageError
from stu_pipeline.nnunet.events import EpochDone


@pytest.mark.parametrize(
    ("text", "folds"),
    [("0", [0]), ("0,1,2", [0, 1, 2]), (" 3 , 1", [3, 1]), ("all", ["all"]), ("0,all", [0, "all"]), ("10", [10])],
)
def test_folds_are_read(text, folds):
    assert parse_folds(text) == folds


@pytest.mark.parametrize("text", ["", "first", "-1", "0,,1", "0;1", "1.5", "0,0", "all,all", "0-4", "\u00b2"])
def test_what_is_no_fold_is_a_usage_error_that_shows_it(text):
    with pytest.raises(UsageError) as caught:
        parse_folds(text)
    assert f"'{text}'" in str(caught.value) and "0,1,2" in str(caught.value)


def make_epoch(epoch, **changes):
    values = {
        "epoch": epoch,
        "num_epochs": 10,
        "train_loss": -0.5,
        "val_loss": -0.4,
        "dice": {"liver": 0.9, "spleen": None},
        "mean_dice": 0.9,
        "ema_dice": 0.8,
        "learning_rate": 0.01,
        "elapsed_s": 30.0,
        "data_wait": 0.25,
        "is_best": False,
        "num_skipped_steps": 0,
    }
    return EpochDone(**{**values, **changes})


def test_an_epoch_is_one_line_with_loss_dice_time_and_what_is_left(capfd, make_console):
    view = TrainingView(make_console())
    view.listen(make_epoch(0))
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    for part in ("epoch 1/10", "-0.5000", "-0.4000", "liver 0.900", "spleen -", "30.0 s", "25%", "4 min 30 s left"):
        assert part in line
    assert "skipped" not in line


def test_many_labels_are_counted_and_skipped_steps_are_told(capfd, make_console):
    view = TrainingView(make_console())
    view.listen(make_epoch(9, dice={f"label{index}": 0.5 for index in range(104)}, num_skipped_steps=2))
    line = capfd.readouterr().err
    assert "(+98 labels)" in line and "2 steps skipped" in line and "0 s left" in line


def test_the_time_left_follows_the_last_epochs(capfd, make_console):
    view = TrainingView(make_console())
    for epoch in range(30):
        view.listen(make_epoch(epoch, num_epochs=40, elapsed_s=100.0 if epoch < 10 else 10.0))
    assert "1 min 40 s left" in capfd.readouterr().err.splitlines()[-1]
