import numpy as np
import pytest

from stu_pipeline.evaluation.statistics import bootstrap_interval, describe_spread, mean_of_finite, mean_over_labels

NAN, INF = np.nan, np.inf


def test_missing_values_do_not_poison_a_mean():
    assert mean_of_finite(np.array([0.5, NAN, 1.0, INF])) == 0.75
    assert mean_of_finite(np.array([NAN, INF])) is None


def test_a_label_missing_everywhere_does_not_poison_the_mean_over_labels():
    assert mean_over_labels(np.array([[0.8, NAN], [0.6, NAN]])) == pytest.approx(0.7)
    assert mean_over_labels(np.array([[NAN], [NAN]])) is None


def test_the_mean_over_labels_weighs_labels_equally():
    values = np.array([[1.0, 0.0], [1.0, NAN], [1.0, NAN]])
    assert mean_over_labels(values) == 0.5


def test_spread_counts_what_it_leaves_out():
    spread = describe_spread(np.array([1.0, 2.0, 3.0, 4.0, INF, NAN, NAN]))
    assert (spread.mean, spread.median, spread.quartile_low, spread.quartile_high) == (2.5, 2.5, 1.75, 3.25)
    assert (spread.num_values, spread.num_infinite, spread.num_missing) == (4, 1, 2)
    assert spread.ci_low < 2.5 < spread.ci_high


def test_spread_of_nothing_is_none():
    spread = describe_spread(np.array([NAN, NAN]))
    assert (spread.mean, spread.median, spread.ci_low, spread.num_values, spread.num_missing) == (
        None,
        None,
        None,
        0,
        2,
    )


def test_one_case_has_no_interval():
    assert bootstrap_interval(np.array([[0.5]])) is None
    assert bootstrap_interval(np.array([[0.5], [NAN]])) is None


def test_equal_cases_have_an_interval_of_no_width():
    assert bootstrap_interval(np.full((10, 2), 0.25)) == pytest.approx((0.25, 0.25))


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).random((30, 3))
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values, seed=4) != bootstrap_interval(values, seed=5)


def test_the_interval_is_about_two_standard_errors_wide():
    values = np.random.default_rng(0).normal(0.8, 0.1, (400, 1))
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(400), rel=0.1)


def test_intervals_cover_the_truth_as_often_as_they_claim():
    generator = np.random.default_rng(11)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(generator.normal(0.0, 1.0, (60, 1)))
        hits += low <= 0.0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_a_rare_label_keeps_the_interval_finite():
    values = np.array([[0.9, NAN], [0.8, NAN], [0.7, 0.1], [0.6, NAN]])
    low, high = bootstrap_interval(values)
    assert 0.0 < low < high < 1.0


def test_many_cases_are_resampled_in_blocks(monkeypatch):
    values = np.random.default_rng(0).random((50, 2))
    whole = bootstrap_interval(values)
    monkeypatch.setattr("stu_pipeline.evaluation.statistics._BLOCK_WEIGHTS", 50 * 7)
    assert bootstrap_interval(values) == pytest.approx(whole)
