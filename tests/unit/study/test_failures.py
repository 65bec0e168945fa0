"""Runs that ended well and still failed are told by their scores and their loss."""

from __future__ import annotations

import math

import pytest

from stu_pipeline.study.cells import Cell, SplitKey
from stu_pipeline.study.failures import find_flags, find_loss_flags, find_lost_labels, read_losses
from stu_pipeline.study.rows import ScoreRow

CELL = Cell(dataset="Dataset001_A", arm="a", scale="S", split=SplitKey(seed=0, fold=0))


def row(label, dice, *, case="one", num_reference=9):
    return ScoreRow(cell=CELL, case=case, label=label, dice=dice, nsd=dice, num_reference=num_reference)


def test_a_label_that_is_never_found_is_named():
    rows = [row("liver", 0.9), row("tumour", 0.0), row("tumour", 0.0, case="two"), row("liver", 0.0, case="two")]
    assert find_lost_labels(rows) == ["Dice 0 in all cases for 1 of 2 labels: tumour"]


def test_a_label_that_no_reference_has_is_not_lost():
    rows = [row("tumour", 0.0, num_reference=0), row("cyst", math.nan, num_reference=0)]
    assert find_lost_labels(rows) == []


def test_one_found_case_is_enough():
    assert find_lost_labels([row("tumour", 0.0), row("tumour", 0.01, case="two")]) == []


@pytest.mark.parametrize(
    ("losses", "flags"),
    [
        ([0.5, 0.1, -0.2, -0.4, -0.5], []),
        ([0.5, 0.6, 0.5, 0.6, 0.5], ["loss never fell"]),
        ([0.5, math.nan, 0.1, 0.0, 0.0], ["loss was not finite in 1 epochs"]),
        ([0.5, 0.1, -0.2], ["stopped after 3 of 5 epochs"]),
        ([], ["stopped after 0 of 5 epochs"]),
    ],
)
def test_the_loss_tells(losses, flags):
    assert find_loss_flags(losses, num_epochs=5) == flags


def test_a_single_epoch_cannot_tell_whether_the_loss_fell():
    assert find_loss_flags([0.5], num_epochs=1) == []


def test_losses_are_read_by_epoch_and_a_torn_line_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"epoch": 0, "train_loss": 0.5}\n{"epoch": 1, "train_loss": 0.4}\n'
        '{"epoch": 1, "train_loss": 0.3}\n{"epoch": 2, "train_loss": null}\n{"epoch": 3, "tr'
    )
    losses = read_losses(path)
    assert losses[:2] == [0.5, 0.3] and math.isnan(losses[2]) and len(losses) == 3
    assert read_losses(tmp_path / "none.jsonl") == []
    assert find_flags([row("a", 0.5)], path, num_epochs=3) == ("loss was not finite in 1 epochs",)
