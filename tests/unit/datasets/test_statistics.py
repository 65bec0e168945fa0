"""The fingerprint's intensities are those of the mixture nnU-Net samples from, by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from stu_pipeline.datasets.statistics import (
    MAX_POINTS,
    describe_values,
    find_nonzero_box,
    measure_case,
    mix_channels,
    thin_statistics,
)

KINDS = {
    "integers": lambda generator, size: np.rint(generator.normal(-300, 400, size)),
    "floats": lambda generator, size: generator.gamma(2.0, 37.5, size),
    "few values": lambda generator, size: generator.choice([0.25, 1.5, 7.0], size),
    "far from zero": lambda generator, size: generator.normal(1e6, 3.0, size),
    "one value": lambda generator, size: np.full(size, 12.0),
}


def make_values(kind: str, size: int, seed: int = 0) -> np.ndarray:
    return KINDS[kind](np.random.default_rng(seed), size).astype(np.float32)


def invert(values: np.ndarray, weights: np.ndarray, rank: float) -> float:
    order = np.argsort(values, kind="stable")
    ranks = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(ranks, rank * ranks[-1])])


@pytest.mark.parametrize("kind", KINDS)
def test_moments_and_extremes_of_a_mixture_are_exact(kind: str) -> None:
    cases = [make_values(kind, size, seed) + np.float32(seed) for seed, size in enumerate((7, 1000, 90_000))]
    mixed = mix_channels([describe_values(case) for case in cases])
    values = np.concatenate(cases).astype(np.float64)
    weights = np.concatenate([np.full(len(case), 1 / len(case)) for case in cases])
    mean = np.average(values, weights=weights)
    assert mixed["mean"] == pytest.approx(mean, rel=1e-7)
    assert mixed["std"] == pytest.approx(np.sqrt(np.average((values - mean) ** 2, weights=weights)), rel=1e-5)
    assert (mixed["min"], mixed["max"]) == (values.min(), values.max())


@pytest.mark.parametrize("kind", ["integers", "few values", "one value"])
@pytest.mark.parametrize(("name", "rank"), [("percentile_00_5", 0.005), ("median", 0.5), ("percentile_99_5", 0.995)])
def test_percentiles_of_scans_with_few_values_are_exact(kind: str, name: str, rank: float) -> None:
    cases = [make_values(kind, size, seed) for seed, size in enumerate((313, 50_021))]
    weights = np.concatenate([np.full(len(case), 1 / len(case)) for case in cases])
    mixed = mix_channels([describe_values(case) for case in cases])
    assert mixed[name] == invert(np.concatenate(cases), weights, rank)


def test_percentiles_of_many_different_values_are_within_half_a_point_in_rank() -> None:
    cases = [make_values("floats", 300_000, seed) * np.float32(seed + 1) for seed in range(3)]
    mixed = mix_channels([describe_values(case) for case in cases])
    weights = np.concatenate([np.full(len(case), 1 / len(case)) for case in cases]) / 3
    values = np.concatenate(cases)
    for name, rank in (("percentile_00_5", 0.005), ("median", 0.5), ("percentile_99_5", 0.995)):
        below, upto = weights[values < mixed[name]].sum(), weights[values <= mixed[name]].sum()
        assert below - 1.5 / MAX_POINTS <= rank <= upto + 1.5 / MAX_POINTS, name


def test_cases_count_the_same_whatever_their_size() -> None:
    small, large = np.zeros(10, np.float32), np.ones(100_000, np.float32)
    mixed = mix_channels([describe_values(small), describe_values(large)])
    assert mixed["mean"] == 0.5
    assert mixed["std"] == 0.5


def test_thinning_keeps_moments_and_moves_ranks_little() -> None:
    label = np.ones((50, 60, 70), np.uint8)
    image = np.random.default_rng(1).normal(0, 1, label.shape).astype(np.float32)
    full = measure_case([image], label)
    thin = thin_statistics(full, 1000)
    assert len(thin.channels[0].values) == 1000
    assert (thin.channels[0].mean, thin.channels[0].variance) == (full.channels[0].mean, full.channels[0].variance)
    ranks = np.searchsorted(np.sort(image.ravel()), thin.channels[0].values) / image.size
    assert np.abs(ranks - (np.arange(1000) + 0.5) / 1000).max() < 1 / 1000


def test_the_box_holds_the_voxels_of_every_channel() -> None:
    first, second = np.zeros((5, 6, 7), np.float32), np.zeros((5, 6, 7), np.float32)
    first[1, 2, 3] = -1
    second[4, 2, 5] = 2
    assert find_nonzero_box([first, second]) == ((1, 5), (2, 3), (3, 6))
    assert find_nonzero_box([first * 0]) == ((0, 5), (0, 6), (0, 7))


def test_foreground_outside_the_box_does_not_count() -> None:
    image, label = np.zeros((4, 4, 4), np.float32), np.zeros((4, 4, 4), np.uint8)
    image[1:3, 1:3, 1:3] = 5
    label[0, 0, 0], label[1, 1, 1] = 1, 2
    case = measure_case([image], label)
    assert case.shape_after_crop == (2, 2, 2)
    assert case.relative_size == 8 / 64
    assert case.channels[0].minimum == case.channels[0].maximum == 5


def test_a_case_without_foreground_has_no_channels() -> None:
    image = np.ones((3, 3, 3), np.float32)
    assert measure_case([image], np.zeros((3, 3, 3), np.uint8)).channels == ()
