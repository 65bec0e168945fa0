import numpy as np
import pytest
from scipy import ndimage

from stu_pipeline.preparation.interpolation import find_corners, find_nearest, make_operator

SIZES = [(1, 1), (1, 4), (2, 5), (5, 2), (7, 14), (14, 7), (9, 10), (40, 33), (300, 310)]


def zoom(line, size_out, order):
    return ndimage.zoom(line, size_out / len(line), order=order, mode="nearest", grid_mode=True)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("size_in", "size_out"), SIZES)
def test_an_operator_gives_what_scipy_gives(size_in, size_out, order):
    line = np.random.default_rng(size_in).normal(size=size_in)
    expected = zoom(line, size_out, order)
    assert np.allclose(make_operator(size_in, size_out, order) @ line, expected, atol=1e-7)


def test_a_constant_line_stays_constant():
    for order in (0, 1, 3):
        assert np.allclose(make_operator(11, 17, order).sum(axis=1), 1.0)


def test_an_operator_cannot_be_changed_by_its_users():
    with pytest.raises(ValueError, match="read-only"):
        make_operator(4, 5, 3)[0] = 0


def test_an_unknown_order_is_a_bug_of_the_caller():
    with pytest.raises(ValueError, match="order must be one of"):
        make_operator(4, 5, 2)


@pytest.mark.parametrize(("size_in", "size_out"), SIZES)
def test_the_nearest_sample_is_scipys(size_in, size_out):
    expected = zoom(np.arange(size_in, dtype=float), size_out, 0)
    assert np.array_equal(find_nearest(size_in, size_out), expected)


def test_corners_coincide_where_a_new_sample_meets_an_old_one():
    corners = find_corners(5, 5)
    assert np.array_equal(corners.lower, np.arange(5)) and np.array_equal(corners.upper, corners.lower)
    assert np.array_equal(corners.lower_weight, np.ones(5))


def test_corners_at_the_edge_stay_inside():
    corners = find_corners(3, 12)
    assert corners.lower.min() == 0 and corners.upper.max() == 2
    assert np.allclose(corners.lower_weight + corners.upper_weight, 1.0)
