import numpy as np
import pytest
from skimage.transform import resize

from stu_pipeline.preparation.label_resampling import resample_labels
from tests.synthetic import make_label_map, make_sphere


def argmax_of_indicators(labels, shape):
    """nnU-Net's definition: interpolate every label, the largest wins, ties to the nearest voxel, else the smallest."""
    values = np.unique(labels)
    scores = np.stack(
        [resize((labels == value).astype(float), shape, 1, mode="edge", anti_aliasing=False) for value in values]
    )
    nearest = resize(labels.astype(float), shape, 0, mode="edge", anti_aliasing=False)
    is_top = scores == scores.max(axis=0)
    result = values[is_top.argmax(axis=0)]
    nearest_is_top = np.take_along_axis(is_top, np.searchsorted(values, nearest)[None], axis=0)[0]
    return np.where(nearest_is_top, nearest, result).astype(labels.dtype)


def make_noise(shape, num_labels=6, seed=0):
    return np.random.default_rng(seed).integers(-1, num_labels, shape).astype(np.int16)


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((8, 9, 10), (12, 11, 17)),
        ((8, 9, 10), (16, 18, 20)),
        ((8, 9, 10), (4, 5, 3)),
        ((8, 9, 10), (8, 9, 15)),
        ((8, 9, 10), (24, 9, 5)),
        ((1, 9, 10), (3, 20, 4)),
    ],
)
def test_noise_is_resampled_to_the_last_voxel_as_by_definition(shape, target):
    labels = make_noise(shape)
    assert np.array_equal(resample_labels(labels, target), argmax_of_indicators(labels, target))


def test_organs_are_resampled_as_by_definition():
    labels = make_label_map((20, 24, 28), num_labels=5).astype(np.int16)
    labels[make_sphere(labels.shape, 6)] = 7
    labels[0] = -1
    target = (27, 31, 22)
    assert np.array_equal(resample_labels(labels, target), argmax_of_indicators(labels, target))


def test_an_even_factor_gives_ties_to_the_nearest_voxel():
    line = np.array([0, 2, 1], dtype=np.int16).reshape(1, 1, 3)
    assert resample_labels(line, (1, 1, 6)).ravel().tolist() == [0, 0, 2, 2, 1, 1]


def test_a_tie_that_the_nearest_voxel_lost_goes_to_the_smallest_label():
    block = np.array([3, 1, 1, 1, 2, 2, 2, 3], dtype=np.int16).reshape(2, 2, 2)
    assert resample_labels(block, (1, 1, 1)).item() == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_do_not_mix_along_a_separate_axis(axis):
    labels, target = make_noise((6, 7, 8)), [11, 12, 13]
    result = np.moveaxis(resample_labels(labels, target, separate_axis=axis), axis, 0)
    slices, plane = np.moveaxis(labels, axis, 0), [size for index, size in enumerate(target) if index != axis]
    nearest = np.floor((np.arange(target[axis]) + 0.5) * len(slices) / target[axis]).astype(int)
    for found, index in zip(result, nearest, strict=True):
        assert np.array_equal(found, argmax_of_indicators(slices[index], plane))


def test_order_zero_takes_the_nearest_voxel():
    labels, target = make_noise((6, 7, 8)), (9, 5, 16)
    expected = resize(labels.astype(float), target, 0, mode="edge", anti_aliasing=False)
    assert np.array_equal(resample_labels(labels, target, order=0), expected)


def test_no_change_returns_the_input_itself():
    labels = make_noise((3, 4, 5))
    assert resample_labels(labels, (3, 4, 5)) is labels


def test_no_label_appears_that_was_not_there():
    labels = make_noise((5, 6, 7), num_labels=40)
    assert set(np.unique(resample_labels(labels, (11, 9, 13)))) <= set(np.unique(labels))


def test_a_view_that_is_not_contiguous_gives_the_same():
    view = make_noise((7, 8, 9)).transpose(2, 0, 1)
    expected = resample_labels(np.ascontiguousarray(view), (11, 6, 10))
    assert np.array_equal(resample_labels(view, (11, 6, 10)), expected)


def test_the_work_does_not_grow_with_the_number_of_labels(monkeypatch):
    import stu_pipeline.preparation.label_resampling as module

    worked = []
    choose = module._choose_labels
    monkeypatch.setattr(module, "_choose_labels", lambda *given: worked.append(given[0].size) or choose(*given))
    box = make_label_map((16, 20, 120), num_labels=30).astype(np.int16)
    resample_labels(box, (20, 25, 150))
    many = sum(worked)
    worked.clear()
    # The same borders with two labels: neighbours keep different ones.
    resample_labels(np.where(box > 0, 1 + box % 2, 0).astype(np.int16), (20, 25, 150))
    assert many == sum(worked)
