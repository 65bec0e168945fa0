"""What the intensity transforms draw: pure per key, within nnU-Net's ranges, as often as it should."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, kstest, uniform

from stu_pipeline.training.augmentation.intensity_draws import draw_intensity
from stu_pipeline.training.sampling.sample import SampleKey

NUM_KEYS = 3000
KEY = SampleKey(seed=7, phase="train", step=0, slot=0)
MAPPINGS = ("blur", "brightness", "contrast", "low_resolution", "inverse_gamma", "gamma")


@pytest.fixture(scope="module")
def draws():
    return [draw_intensity(replace(KEY, step=step), num_channels=2, num_axes=3) for step in range(NUM_KEYS)]


def list_values(draws, name):
    values = [value for drawn in draws for value in getattr(drawn, name).values()]
    return np.concatenate([np.atleast_1d(value) for value in values])


def test_the_same_key_draws_the_same_and_another_key_does_not():
    def draw(**changes):
        return [draw_intensity(replace(KEY, step=step, **changes), num_channels=2, num_axes=3) for step in range(20)]

    assert draw() == draw()
    assert all(draw(**{name: value}) != draw() for name, value in (("seed", 8), ("slot", 1), ("phase", "validation")))


@pytest.mark.parametrize(
    ("name", "probability"),
    [
        ("brightness", 0.15),
        ("contrast", 0.15),
        ("inverse_gamma", 0.1),
        ("gamma", 0.3),
        ("blur", 0.2 * 0.75),  # neither channel in a quarter of the cases
        ("low_resolution", 0.25 * 0.75),
    ],
)
def test_a_transform_fires_as_often_as_in_nnunet(draws, name, probability):
    num_fired = sum(bool(getattr(drawn, name)) for drawn in draws)
    assert binomtest(num_fired, NUM_KEYS, probability).pvalue > 1e-3


def test_noise_fires_as_often_as_in_nnunet_and_its_deviation_is_uniform(draws):
    deviations = [drawn.noise_std for drawn in draws if drawn.noise_std is not None]
    assert binomtest(len(deviations), NUM_KEYS, 0.1).pvalue > 1e-3
    assert kstest(deviations, uniform(0, 0.1).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", ["brightness", "contrast", "inverse_gamma", "gamma"])
def test_what_takes_all_channels_takes_them_with_factors_of_their_own(draws, name):
    fired = [getattr(drawn, name) for drawn in draws if getattr(drawn, name)]
    assert all(set(factors) == {0, 1} and factors[0] != factors[1] for factors in fired)


@pytest.mark.parametrize("name", ["blur", "low_resolution"])
def test_what_takes_every_other_channel_takes_each_equally_often(draws, name):
    channels = [channel for drawn in draws for channel in getattr(drawn, name)]
    assert binomtest(channels.count(0), len(channels)).pvalue > 1e-3
    assert any(len(getattr(drawn, name)) == 2 for drawn in draws)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("brightness", 0.75, 1.25), ("contrast", 0.75, 1.25), ("inverse_gamma", 0.7, 1.5), ("gamma", 0.7, 1.5)],
)
def test_factors_lie_below_and_above_one_equally_often_and_uniformly(draws, name, low, high):
    factors = list_values(draws, name)
    below, above = factors[factors < 1], factors[factors >= 1]
    assert binomtest(len(below), len(factors)).pvalue > 1e-3
    assert kstest(below, uniform(low, 1 - low).cdf).pvalue > 1e-3
    assert kstest(above, uniform(1, high - 1).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", ["blur", "low_resolution"])
def test_sigmas_and_scales_are_uniform_between_a_half_and_one(draws, name):
    assert kstest(list_values(draws, name), uniform(0.5, 0.5).cdf).pvalue > 1e-3


@pytest.mark.parametrize("num_axes", [2, 3])
def test_each_axis_has_a_sigma_of_its_own(num_axes):
    draws = [draw_intensity(replace(KEY, step=step), num_channels=1, num_axes=num_axes) for step in range(60)]
    sigmas = [drawn.blur[0] for drawn in draws if drawn.blur]
    assert sigmas
    assert all(len(set(of_axes)) == num_axes for of_axes in sigmas)


def test_transforms_fire_independently_of_each_other(draws):
    fired = np.array([[bool(getattr(drawn, name)) for name in MAPPINGS] for drawn in draws], float)
    correlations = np.corrcoef(fired.T) - np.eye(len(MAPPINGS))
    assert np.abs(correlations).max() < 4 / np.sqrt(NUM_KEYS)
