"""The paired statistics against scipy, against simulation, and where there is little to compare."""

import numpy as np
import pytest
from scipy import stats

from stu_pipeline.evaluation.comparison.paired import (
    compare_paired,
    correct_holm,
    find_advantages,
    find_signed_rank_p,
    measure_rank_biserial,
    rank_runs,
    run_friedman,
)
from stu_pipeline.evaluation.statistics import find_median_interval

NAN, INF = np.nan, np.inf


def draw_pairs(num_cases, *, shift=0.0, seed=0):
    generator = np.random.default_rng(seed)
    difficulty = generator.normal(0.7, 0.1, num_cases)
    return difficulty + generator.normal(0, 0.02, num_cases), difficulty + generator.normal(shift, 0.02, num_cases)


@pytest.mark.parametrize("num_cases", [8, 40, 80])
def test_the_p_value_is_that_of_scipy(num_cases):
    first, second = draw_pairs(num_cases, shift=0.01)
    expected = stats.wilcoxon(second - first, zero_method="wilcox").pvalue
    assert compare_paired(first, second, higher_is_better=True).p_value == pytest.approx(expected, rel=1e-9)


def test_cases_without_a_difference_do_not_change_the_p_value():
    first, second = draw_pairs(12, shift=0.02)
    scores = compare_paired(np.r_[first, 0.5, 0.6], np.r_[second, 0.5, 0.6], higher_is_better=True)
    assert scores.p_value == pytest.approx(compare_paired(first, second, higher_is_better=True).p_value)
    assert (scores.ties, scores.num_cases) == (2, 14)


def test_the_p_value_is_uniform_when_nothing_differs():
    p_values = [find_signed_rank_p(np.subtract(*draw_pairs(30, seed=seed))) for seed in range(400)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09


def test_the_interval_of_a_difference_covers_the_truth_as_often_as_it_says():
    hits = 0
    for seed in range(200):
        scores = compare_paired(*draw_pairs(40, shift=0.01, seed=seed), higher_is_better=True)
        hits += scores.ci_low <= 0.01 <= scores.ci_high
    assert 0.89 <= hits / 200 <= 0.99


def test_pairs_make_the_interval_narrow():
    first, second = draw_pairs(60)
    scores = compare_paired(first, second, higher_is_better=True)
    unpaired = 2 * 1.96 * np.sqrt((first.var() + second.var()) / 60)
    assert scores.ci_high - scores.ci_low < unpaired / 3


def test_effect_sizes_are_their_definitions():
    advantages = np.array([0.3, -0.1, 0.2, 0.4])  # ranks 3, 1, 2, 4
    assert measure_rank_biserial(advantages) == pytest.approx((3 + 2 + 4 - 1) / 10)
    scores = compare_paired(np.zeros(4), advantages, higher_is_better=True)
    assert scores.cohens_dz == pytest.approx(0.2 / np.std(advantages, ddof=1))
    assert (scores.wins, scores.ties, scores.losses) == (3, 0, 1)


def test_lower_is_better_turns_the_advantage_and_not_the_difference():
    first, second = np.array([3.0, 4.0, 5.0]), np.array([2.0, 3.5, 4.0])
    scores = compare_paired(first, second, higher_is_better=False)
    assert scores.difference == pytest.approx(-2.5 / 3)
    assert (scores.wins, scores.losses) == (3, 0)
    assert scores.rank_biserial == 1.0 and scores.cohens_dz > 0


def test_a_missed_label_is_worse_than_any_distance():
    first, second = np.array([INF, 1.0, 2.0, INF, NAN]), np.array([50.0, INF, 1.0, INF, 1.0])
    scores = compare_paired(first, second, higher_is_better=False)
    assert (scores.wins, scores.ties, scores.losses, scores.num_left_out) == (2, 1, 1, 1)
    assert (scores.mean_first, scores.mean_second, scores.difference) == (2.0, 1.0, -1.0)
    assert np.isfinite(find_advantages(first[:4], second[:4], higher_is_better=False)).all()


def test_equal_runs_have_no_effect_and_p_one():
    values = np.array([0.5, 0.6, 0.7])
    scores = compare_paired(values, values, higher_is_better=True)
    assert (scores.p_value, scores.rank_biserial, scores.cohens_dz, scores.difference) == (1.0, 0.0, None, 0.0)


def test_rounding_is_no_difference():
    first = np.array([0.1 + 0.2, 0.5])
    scores = compare_paired(first, np.array([0.3, 0.5]), higher_is_better=True)
    assert (scores.ties, scores.p_value) == (2, 1.0)


def test_nothing_to_compare_gives_none():
    scores = compare_paired(np.array([NAN, 1.0]), np.array([1.0, NAN]), higher_is_better=True)
    assert (scores.p_value, scores.difference, scores.rank_biserial, scores.num_cases) == (None, None, None, 0)
    assert compare_paired(np.array([0.5]), np.array([0.6]), higher_is_better=True).ci_low is None


def test_holm_is_that_of_the_textbook():
    # Holm 1979: sorted p times 4, 3, 2, 1, never falling.
    assert correct_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert correct_holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert correct_holm([]) == []


def test_holm_keeps_the_rate_of_false_alarms_over_many_labels():
    alarms = 0
    for seed in range(150):
        p_values = [find_signed_rank_p(np.subtract(*draw_pairs(20, seed=1000 * seed + label))) for label in range(10)]
        alarms += min(correct_holm(p_values)) < 0.05
    assert alarms / 150 < 0.11


def test_ranks_of_runs_share_places():
    values = np.array([[0.9, 0.8, 0.5], [0.9, 0.7, 0.6], [0.1, NAN, 0.1]])
    assert rank_runs(values, higher_is_better=True) == pytest.approx([1.75, 1.25, 3.0])
    assert rank_runs(values, higher_is_better=False) == pytest.approx([2.25, 2.75, 1.0])
    assert np.isnan(rank_runs(np.full((2, 1), NAN), higher_is_better=True)).all()


def test_friedman_is_that_of_scipy():
    values = np.random.default_rng(3).random((3, 20))
    expected = stats.friedmanchisquare(*values)
    assert run_friedman(values) == pytest.approx((expected.statistic, expected.pvalue, 20))


def test_friedman_needs_three_runs_and_three_cases_and_bears_equal_ones():
    assert run_friedman(np.ones((2, 9))) is None
    assert run_friedman(np.ones((3, 2))) is None
    assert run_friedman(np.ones((3, 9))) == (0.0, 1.0, 9)


def test_the_interval_of_the_median_covers_it_as_often_as_it_says():
    generator = np.random.default_rng(5)
    hits = 0
    for _ in range(400):
        low, high = find_median_interval(generator.exponential(1.0, 25))
        hits += low <= np.log(2) <= high
    assert hits / 400 >= 0.93


def test_below_six_cases_the_median_has_no_interval():
    assert find_median_interval(np.arange(5.0)) is None
    assert find_median_interval(np.arange(6.0)) == (0.0, 5.0)
    assert find_median_interval(np.array([])) is None
