"""How sure a ranking is."""

from __future__ import annotations

import numpy as np
import pytest

from stu_pipeline.training.ranking.certainty import rank_candidates, write_verdict
from stu_pipeline.training.ranking.config import SCRATCH


def rank(scores, names=("a", "b", SCRATCH)):
    return rank_candidates(names, ("S",) * len(names), np.array(scores, dtype=float))


def test_the_best_mean_comes_first_and_differences_are_to_it():
    rows = rank([[0.8, 0.9], [0.9, 1.0], [0.5, 0.6]])
    assert [row.name for row in rows] == ["b", "a", SCRATCH]
    assert [row.difference for row in rows] == pytest.approx([0, -0.1, -0.4])
    assert rows[0].scores == (0.9, 1.0)


def test_a_candidate_that_is_better_in_every_case_is_certain():
    rows = rank([[0.90, 0.91, 0.92, 0.93], [0.80, 0.81, 0.82, 0.83], [0.5, 0.5, 0.5, 0.5]])
    assert rows[0].chance_best == 1 and rows[1].ci_high < 0
    assert "'a' is best" in write_verdict(rows)


def test_candidates_that_win_half_of_the_cases_each_are_not_told_apart():
    rows = rank([[0.95, 0.80, 0.95, 0.80], [0.80, 0.94, 0.80, 0.94], [0.5] * 4])
    assert 0.2 < rows[0].chance_best < 0.8 and rows[1].ci_low < 0 < rows[1].ci_high
    assert "not sure" in write_verdict(rows) and "'b'" in write_verdict(rows)


def test_equal_candidates_keep_their_order_in_every_draw():
    rows = rank([[0.9, 0.8], [0.9, 0.8], [0.5, 0.5]])
    assert [(row.name, row.chance_best) for row in rows] == [("a", 1), ("b", 0), (SCRATCH, 0)]


def test_the_verdict_names_untrained_weights_when_nothing_beats_them():
    assert "train from scratch" in write_verdict(rank([[0.5, 0.6], [0.5, 0.5], [0.8, 0.9]]))
    close = rank([[0.80, 0.60, 0.80], [0.5, 0.5, 0.5], [0.60, 0.79, 0.60]])
    assert "do not tell it from untrained" in write_verdict(close)
