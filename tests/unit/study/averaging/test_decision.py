"""When an average of weights is kept."""

from __future__ import annotations

import numpy as np

from stu_pipeline.study.averaging.config import Member
from stu_pipeline.study.averaging.decision import choose_average


def member(name, scores, *, is_candidate=False):
    return Member(name=name, is_candidate=is_candidate, mean_dice=float(np.mean(scores)), scores=tuple(scores))


def average(scores, name="average of folds"):
    return member(name, scores, is_candidate=True)


FOLD_A, FOLD_B = member("fold 0", [0.80, 0.82, 0.81, 0.79, 0.83]), member("fold 1", [0.81, 0.80, 0.82, 0.80, 0.82])


def test_an_average_that_is_better_in_every_case_is_kept():
    chosen, why = choose_average([FOLD_A, FOLD_B, average([0.84, 0.85, 0.84, 0.83, 0.86])])
    assert chosen is not None and chosen.name == "average of folds" and why.endswith("kept")


def test_an_average_below_the_best_fold_is_not_kept():
    bad = member("fold 1", [0.5] * 5)
    chosen, why = choose_average([FOLD_A, bad, average([0.75, 0.76, 0.75, 0.74, 0.75])])
    assert chosen is None and "a single fold is better" in why


def test_a_gain_that_may_be_chance_is_not_kept():
    chosen, why = choose_average([FOLD_A, FOLD_B, average([0.95, 0.70, 0.95, 0.70, 0.90])])
    assert chosen is None and "may be chance" in why


def test_one_held_out_case_proves_nothing():
    chosen, why = choose_average([member("fold 0", [0.8]), average([0.9])])
    assert chosen is None and "proves nothing" in why


def test_of_two_averages_the_better_one_is_judged():
    moving = average([0.86, 0.87, 0.86, 0.85, 0.88], "average of moving averages")
    chosen, _ = choose_average([FOLD_A, FOLD_B, average([0.84, 0.85, 0.84, 0.83, 0.86]), moving])
    assert chosen is moving
