import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from stu_pipeline.evaluation.surface import find_surface, measure_distances, score_surfaces
from tests.synthetic import make_sphere

UNIT = (1.0, 1.0, 1.0)


def make_box(shape, start, stop):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def score(reference, prediction, *, spacing_mm=UNIT, tolerance_mm=1.0, **options):
    return score_surfaces(reference, prediction, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm, **options)


def test_surface_of_a_box_is_its_shell():
    box = make_box((12, 12, 12), (2, 2, 2), (8, 9, 10))
    assert find_surface(box).sum() == 6 * 7 * 8 - 4 * 5 * 6


def test_a_mask_that_fills_the_array_has_its_surface_at_the_edge():
    assert find_surface(np.ones((5, 5, 5), dtype=bool)).sum() == 125 - 27


def test_a_flat_axis_has_no_surface():
    square = make_box((1, 10, 10), (0, 2, 2), (1, 8, 8))
    assert find_surface(square, flat_axes=(0,)).sum() == 36 - 16
    assert find_surface(square).sum() == 36


def test_equal_masks_score_perfectly():
    sphere = make_sphere((20, 20, 20), 7)
    scores = score(sphere, sphere, tolerance_mm=0.0)
    assert (scores.hd95_mm, scores.assd_mm, scores.nsd) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("spacing_mm", [UNIT, (5.0, 0.8, 0.8)])
def test_two_planes_are_as_far_apart_as_their_spacing_says(spacing_mm):
    first, second = make_box((20, 9, 9), (3, 0, 0), (4, 9, 9)), make_box((20, 9, 9), (10, 0, 0), (11, 9, 9))
    distance = 7 * spacing_mm[0]
    scores = score(first, second, spacing_mm=spacing_mm)
    assert scores.hd95_mm == pytest.approx(distance)
    assert scores.assd_mm == pytest.approx(distance)
    assert scores.nsd == 0.0
    assert score(first, second, spacing_mm=spacing_mm, tolerance_mm=distance).nsd == 1.0


def test_concentric_spheres_are_apart_by_the_difference_of_their_radii():
    inner, outer = make_sphere((61, 61, 61), 20), make_sphere((61, 61, 61), 26)
    scores = score(inner, outer)
    assert scores.assd_mm == pytest.approx(6.0, abs=0.25)
    assert scores.hd95_mm == pytest.approx(6.0, abs=0.75)
    assert score(inner, outer, tolerance_mm=5.0).nsd < 0.02
    assert score(inner, outer, tolerance_mm=7.0).nsd == 1.0


def test_a_larger_box_scores_by_hand_count():
    # A line of 10 voxels against the same line with 2 more: every reference voxel is met, the two extra
    # ones are 1 and 2 mm away.
    first, second = make_box((3, 3, 20), (1, 1, 2), (2, 2, 12)), make_box((3, 3, 20), (1, 1, 2), (2, 2, 14))
    scores = score(first, second)
    assert scores.nsd == pytest.approx((10 + 11) / 22)
    assert scores.assd_mm == pytest.approx(3 / 22)
    # The 95th percentile of ten zeros, 1 and 2 with linear interpolation: position 10.45 of 0..11.
    assert scores.hd95_mm == pytest.approx(1.45)


def test_scores_do_not_depend_on_which_mask_is_the_reference():
    first, second = make_sphere((30, 30, 30), 9), make_box((30, 30, 30), (4, 8, 8), (22, 20, 23))
    assert score(first, second, spacing_mm=(2.0, 1.0, 0.7)) == score(second, first, spacing_mm=(2.0, 1.0, 0.7))


def test_distances_equal_those_of_a_distance_transform():
    generator = np.random.default_rng(5)
    first, second = generator.random((14, 15, 16)) > 0.97, generator.random((14, 15, 16)) > 0.9
    spacing_mm = (3.0, 0.7, 1.1)
    to_second, to_first = measure_distances(first, second, spacing_mm)
    np.testing.assert_allclose(to_second, distance_transform_edt(~second, sampling=spacing_mm)[first])
    np.testing.assert_allclose(to_first, distance_transform_edt(~first, sampling=spacing_mm)[second])


def test_a_header_rounded_up_does_not_cost_the_tolerance():
    first, second = make_box((4, 4, 9), (0, 0, 2), (4, 4, 3)), make_box((4, 4, 9), (0, 0, 3), (4, 4, 4))
    assert score(first, second, spacing_mm=(1.0, 1.0, 1.000001)).nsd == 1.0
    assert score(first, second, spacing_mm=(1.0, 1.0, 1.001)).nsd == 0.0


def test_the_stand_in_spacing_of_a_flat_image_does_not_widen_the_tolerance():
    first, second = make_box((1, 4, 9), (0, 0, 2), (1, 4, 3)), make_box((1, 4, 9), (0, 0, 3), (1, 4, 4))
    assert score(first, second, spacing_mm=(999.0, 1.0, 1.005), flat_axes=(0,)).nsd == 0.0


def test_two_empty_masks_have_nothing_to_measure():
    empty = np.zeros((4, 4, 4), dtype=bool)
    scores = score(empty, empty)
    assert np.isnan([scores.hd95_mm, scores.assd_mm, scores.nsd]).all()


@pytest.mark.parametrize("swap", [False, True])
def test_one_empty_mask_is_infinitely_far(swap):
    masks = [np.zeros((4, 4, 4), dtype=bool), np.ones((4, 4, 4), dtype=bool)]
    scores = score(*(reversed(masks) if swap else masks))
    assert (scores.hd95_mm, scores.assd_mm, scores.nsd) == (np.inf, np.inf, 0.0)
