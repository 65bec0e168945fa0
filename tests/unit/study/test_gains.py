"""Gains are paired, failed runs are left out of the second sum, and a lucky dataset does not carry the trimmed mean."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stu_pipeline.study.gains import compare_arms, sum_gains, trim_mean
from stu_pipeline.study.manifest import Comparison
from stu_pipeline.study.pooling import ArmKey, ArmScores

PAIR = (Comparison(arm="tuned", baseline="scratch"),)


def make(values, *, cases=None, seeds=(0,), labels=("x",)):
    values = np.asarray(values, dtype=np.float64)
    cases = cases or tuple(f"case_{index}" for index in range(values.shape[1]))
    return ArmScores(tuple(seeds), tuple(cases), tuple(labels), values)


def pools_of(gains, *, num_cases=6, base=0.5):
    pools = {}
    for name, gain in gains.items():
        start = base + 0.01 * np.arange(num_cases)[None, :, None]
        pools[ArmKey(name, "scratch", "S", 5)] = make(start)
        pools[ArmKey(name, "tuned", "S", 5)] = make(start + gain + 0.001 * np.arange(num_cases)[None, :, None])
    return pools


def test_a_gain_is_the_mean_paired_difference():
    (gain,) = compare_arms(pools_of({"A": 0.1}), PAIR, {})
    assert gain.gain == pytest.approx(0.1 + 0.001 * 2.5)
    assert (gain.paired.wins, gain.paired.losses, gain.paired.num_cases) == (6, 0, 6)
    assert gain.paired.p_value == pytest.approx(2 / 2**6) and gain.num_seeds == 1


def test_only_seeds_cases_and_labels_that_both_have_are_compared():
    first = make([[[0.5, 0.9], [0.6, 0.9]], [[0.9, 0.9], [0.9, 0.9]]], seeds=(0, 1), labels=("x", "y"))
    second = make([[[0.7], [0.1]]], cases=("case_1", "other"), labels=("x",))
    pools = {ArmKey("A", "scratch", "S", 5): first, ArmKey("A", "tuned", "S", 5): second}
    (gain,) = compare_arms(pools, PAIR, {})
    assert gain.gain == pytest.approx(0.7 - 0.6) and gain.paired.num_cases == 1 and gain.num_seeds == 1


def test_an_stu_net_meets_its_own_scale_and_the_one_stock_network():
    pools = {ArmKey("A", "tuned", scale, 0): make([[[0.6], [0.6]]]) for scale in ("S", "B")} | {
        ArmKey("A", "scratch", "S", 0): make([[[0.5], [0.5]]]),
        ArmKey("A", "nnunet", "", 0): make([[[0.4], [0.4]]]),
    }
    pairs = (*PAIR, Comparison(arm="tuned", baseline="nnunet"))
    found = [(gain.arm.column, gain.baseline.column, gain.gain) for gain in compare_arms(pools, pairs, {})]
    assert found == [
        ("tuned S", "scratch S", pytest.approx(0.1)),
        ("tuned S", "nnunet", pytest.approx(0.2)),
        ("tuned B", "nnunet", pytest.approx(0.2)),
    ]


def test_holms_correction_is_over_the_datasets_of_a_comparison():
    gains = compare_arms(pools_of({"A": 0.1, "B": 0.1, "C": 0.1}), PAIR, {})
    assert [gain.p_corrected for gain in gains] == pytest.approx([3 * gain.paired.p_value for gain in gains])


def test_the_sum_over_datasets_counts_and_names():
    gains = compare_arms(pools_of({"A": 0.1, "B": -0.05, "C": 0.02}), PAIR, {})
    overall = sum_gains(gains, PAIR)
    assert [item.has_failed_runs for item in overall] == [True, False]
    first = overall[0]
    assert (first.num_datasets, first.wins, first.ties, first.losses) == (3, 2, 0, 1)
    assert first.median == pytest.approx(0.0225) and first.mean == pytest.approx(0.07 / 3 + 0.0025)
    assert first.negative == ("B",)


def test_runs_that_look_failed_are_in_the_first_sum_only():
    flags = {ArmKey("A", "scratch", "S", 5): ["n5.s0: loss never fell"]}
    gains = compare_arms(pools_of({"A": 0.4, "B": 0.01}), PAIR, flags)
    assert gains[0].flags == ("scratch S: n5.s0: loss never fell",) and gains[1].flags == ()
    every, sound = sum_gains(gains, PAIR)
    assert every.num_datasets == 2 and every.mean == pytest.approx(0.2075)
    assert sound.num_datasets == 1 and sound.mean == pytest.approx(0.0125)


def test_a_sum_without_datasets_says_nothing():
    flags = {ArmKey("A", "tuned", "S", 5): ["lost"]}
    sound = sum_gains(compare_arms(pools_of({"A": 0.4}), PAIR, flags), PAIR)[1]
    assert (sound.num_datasets, sound.mean, sound.median, sound.trimmed_mean, sound.p_value) == (0, None, None, None,
                                                                                                None)  # fmt: skip


def test_the_trimmed_mean_is_not_carried_by_outliers():
    values = np.array([0.01, 0.02, 0.0, 0.01, 0.34, 0.01, 0.02, -0.2, 0.01, 0.02])
    assert trim_mean(values) == pytest.approx(0.1 / 8)
    assert trim_mean(np.array([0.0, 1.0])) == 0.5  # too few to leave any out
    assert trim_mean(np.array([])) is None


def test_a_case_without_any_label_is_left_out():
    pools = {ArmKey("A", "scratch", "S", 5): make([[[0.5], [math.nan]]]), ArmKey("A", "tuned", "S", 5): make(
        [[[0.6], [math.nan]]])}  # fmt: skip
    (gain,) = compare_arms(pools, PAIR, {})
    assert gain.gain == pytest.approx(0.1) and gain.paired.num_left_out == 1
