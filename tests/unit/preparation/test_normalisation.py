import numpy as np
import pytest

from stu_pipeline.errors import DataError
from stu_pipeline.preparation.normalisation import Normalisation, normalise_channel
from tests.case_plans import STATISTICS


def make(seed=0):
    return np.random.default_rng(seed).normal(50, 80, (6, 7, 8)).astype(np.float32)


def test_ct_is_clipped_and_scaled_with_the_statistics_of_the_dataset():
    channel = make()
    expected = (np.clip(channel, -120, 210) - 40) / 60
    normalise_channel(channel, Normalisation(scheme="CTNormalization", statistics=STATISTICS), None)
    assert np.allclose(channel, expected, atol=1e-6)


def test_a_z_score_has_mean_0_and_deviation_1():
    channel = make()
    normalise_channel(channel, Normalisation(scheme="ZScoreNormalization"), None)
    assert channel.mean() == pytest.approx(0, abs=1e-5) and channel.std() == pytest.approx(1, abs=1e-5)


def test_a_z_score_within_the_mask_leaves_the_rest_alone():
    channel = make()
    inside = np.zeros(channel.shape, dtype=bool)
    inside[2:5] = True
    outside = channel[~inside].copy()
    normalise_channel(channel, Normalisation(scheme="ZScoreNormalization", within_mask=True), inside)
    assert np.array_equal(channel[~inside], outside)
    assert channel[inside].std() == pytest.approx(1, abs=1e-5)


def test_a_mask_without_voxels_changes_nothing():
    channel = make()
    before = channel.copy()
    nowhere = np.zeros(channel.shape, dtype=bool)
    normalise_channel(channel, Normalisation(scheme="ZScoreNormalization", within_mask=True), nowhere)
    assert np.array_equal(channel, before)


@pytest.mark.parametrize("within_mask", [False, True])
def test_a_constant_channel_becomes_zero(within_mask):
    channel = np.full((3, 3, 3), 7, dtype=np.float32)
    normalise_channel(channel, Normalisation(scheme="ZScoreNormalization", within_mask=within_mask), None)
    assert (channel == 0).all()


def test_values_are_rescaled_to_0_and_1():
    channel = make()
    normalise_channel(channel, Normalisation(scheme="RescaleTo01Normalization"), None)
    assert channel.min() == 0 and channel.max() == 1


def test_a_view_is_normalised_in_place():
    array = make()
    normalise_channel(array.transpose(2, 0, 1)[1:], Normalisation(scheme="NoNormalization"), None)
    normalise_channel(array.transpose(2, 0, 1)[1:], Normalisation(scheme="RescaleTo01Normalization"), None)
    assert array[..., 1:].max() == 1 and abs(array[..., 0]).max() > 1


def test_bytes_become_0_to_1():
    channel = np.array([[[0, 51, 255]]], dtype=np.float32)
    normalise_channel(channel, Normalisation(scheme="RGBTo01Normalization"), None)
    assert channel.ravel().tolist() == pytest.approx([0, 0.2, 1])


def test_values_that_are_no_bytes_are_refused():
    with pytest.raises(DataError, match="values from -1 to 256"):
        normalise_channel(np.array([-1, 256], dtype=np.float32), Normalisation(scheme="RGBTo01Normalization"), None)
