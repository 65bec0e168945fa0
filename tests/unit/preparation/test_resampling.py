import numpy as np
import pytest
from skimage.transform import resize

from stu_pipeline.preparation.resampling import resample_image


def make(shape, *, channels=1, seed=0):
    return np.random.default_rng(seed).normal(3, 5, (channels, *shape)).astype(np.float32)


def resize_like_nnunet(channel, shape, order=3):
    return resize(channel.astype(float), shape, order, mode="edge", anti_aliasing=False)


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((9, 11, 13), (12, 15, 10)),
        ((9, 11, 13), (5, 22, 13)),
        ((9, 11, 13), (9, 11, 20)),
        ((1, 30, 20), (1, 17, 45)),
        ((20, 3, 2), (9, 8, 7)),
        ((2, 150, 170), (3, 180, 130)),
    ],
)
@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_channel_is_what_scikit_image_makes_of_it(shape, target, order):
    image = make(shape, channels=2)
    result = resample_image(image, target, order=order)
    assert result.dtype == np.float32
    for channel, found in zip(image, result, strict=True):
        assert np.allclose(found, resize_like_nnunet(channel, target, order), atol=1e-5)


def test_no_change_returns_the_input_itself():
    image = make((4, 5, 6))
    assert resample_image(image, (4, 5, 6)) is image


def test_values_stay_within_the_range_of_the_channel():
    image = np.zeros((1, 8, 8, 8), dtype=np.float32)
    image[0, 3:5, 3:5, 3:5] = 100
    result = resample_image(image, (15, 15, 15))
    assert result.min() == 0 and result.max() == 100


def test_each_slice_is_clipped_for_itself_with_a_separate_axis():
    image = np.stack([np.full((6, 6), level, dtype=np.float32) for level in (0, 50, 7)])[None]
    image[0, 1, 2, 2] = 60
    result = resample_image(image, (3, 11, 11), separate_axis=0)
    assert result[0, 1].min() == 50 and result[0, 1].max() <= 60
    assert (result[0, 0] == 0).all() and (result[0, 2] == 7).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_repeated_along_a_separate_axis(axis):
    image = make((5, 6, 7))
    shape = [10, 12, 14]
    result = resample_image(image, shape, separate_axis=axis)
    moved = np.moveaxis(result[0], axis, 0)
    assert np.array_equal(moved[0::2], moved[1::2])


def test_a_separate_axis_that_shrinks_takes_the_nearest_slices():
    image = make((9, 5, 5))
    result = resample_image(image, (3, 5, 5), separate_axis=0)
    assert np.array_equal(result[0], image[0, [1, 4, 7]])


def test_views_that_are_not_contiguous_give_the_same():
    image = make((7, 8, 9))
    view = image.transpose(0, 3, 1, 2)
    expected = resample_image(np.ascontiguousarray(view), (11, 6, 10))
    assert np.array_equal(resample_image(view, (11, 6, 10)), expected)


def test_many_columns_are_done_in_parts_without_a_seam():
    image = make((3, 150, 150))
    result = resample_image(image, (4, 150, 150))
    assert np.allclose(result[0], resize_like_nnunet(image[0], (4, 150, 150)), atol=1e-5)
