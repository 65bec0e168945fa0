"""Averages follow the rule that the page states."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stu_pipeline.study.cells import Cell, SplitKey
from stu_pipeline.study.pooling import (
    ArmKey,
    average,
    macro_average,
    pool_rows,
    score_cases,
    score_dataset,
    score_labels,
    score_seeds,
)
from stu_pipeline.study.rows import ScoreRow


def row(seed, case, label, dice, *, fold=None, number=5, arm="a"):
    cell = Cell(
        dataset="Dataset001_A",
        arm=arm,
        scale="S",
        split=SplitKey(seed=seed, num_training_cases=None if fold is not None else number, fold=fold),
    )
    return ScoreRow(cell=cell, case=case, label=label, dice=dice, nsd=dice / 2, num_reference=1)


def test_seeds_are_averaged_before_cases_and_cases_before_labels():
    rows = [
        row(0, "one", "x", 0.2), row(1, "one", "x", 0.4), row(0, "two", "x", 0.8), row(1, "two", "x", math.nan),
        row(0, "one", "y", 1.0), row(1, "one", "y", 1.0), row(0, "two", "y", math.nan), row(1, "two", "y", math.nan),
    ]  # fmt: skip
    scores = pool_rows(rows)[ArmKey("Dataset001_A", "a", "S", 5)]
    assert score_labels(scores) == pytest.approx({"x": (0.3 + 0.8) / 2, "y": 1.0})
    assert score_dataset(scores) == pytest.approx((0.55 + 1.0) / 2)
    assert score_cases(scores) == pytest.approx([(0.3 + 1.0) / 2, 0.8])
    assert score_seeds(scores) == pytest.approx([(0.5 + 1.0) / 2, (0.4 + 1.0) / 2])
    assert score_dataset(pool_rows(rows, "nsd")[ArmKey("Dataset001_A", "a", "S", 5)]) == pytest.approx(0.3875)


def test_the_folds_of_a_seed_are_one_row_of_cases():
    rows = [row(0, "one", "x", 0.2, fold=0), row(0, "two", "x", 0.6, fold=1)]
    pools = pool_rows(rows)
    assert list(pools) == [ArmKey("Dataset001_A", "a", "S", 0)]
    assert pools[ArmKey("Dataset001_A", "a", "S", 0)].values.shape == (1, 2, 1)


def test_arms_keep_the_order_of_the_rows_and_numbers_are_sorted():
    rows = [row(0, "one", "x", 0.1, arm="z", number=9), row(0, "one", "x", 0.1, arm="b", number=9),
            row(0, "one", "x", 0.1, arm="z", number=2)]  # fmt: skip
    assert [(key.arm, key.num_training_cases) for key in pool_rows(rows)] == [("z", 2), ("z", 9), ("b", 9)]


def test_nothing_averages_to_nothing():
    assert math.isnan(average(np.array([math.nan]), axis=0))
    assert macro_average({}) == (None, None) and macro_average({"a": {}}) == (None, None)


def test_macro_averages_weigh_datasets_or_labels():
    scores = {"a": {"x": 1.0}, "b": {"x": 0.0, "y": 0.2, "z": 0.4}}
    assert macro_average(scores) == pytest.approx(((1.0 + 0.2) / 2, 0.4))
