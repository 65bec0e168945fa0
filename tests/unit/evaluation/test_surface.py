import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from stu_pipeline.evaluation.surface import choose_surface_grid, measure_distances, score_surfaces
from tests.synthetic import make_sphere

UNIT = (1.0, 1.0, 1.0)


def make_box(shape, start, stop):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def score(reference, prediction, *, spacing_mm=UNIT, tolerance_mm=1.0):
    return score_surfaces(reference, prediction, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)


def test_equal_masks_score_perfectly():
    sphere = make_sphere((20, 20, 20), 7)
    scores = score(sphere, sphere, tolerance_mm=0.0)
    assert (scores.hd95_mm, scores.assd_mm, scores.nsd) == (0.0, 0.0, 1.0)
    assert (scores.mean_ref_to_pred_mm, scores.mean_pred_to_ref_mm) == (0.0, 0.0)


@pytest.mark.parametrize("spacing_mm", [UNIT, (5.0, 0.8, 0.8)])
def test_two_plates_are_as_far_apart_as_their_sides(spacing_mm):
    # One voxel thick, seven voxels apart: the near sides are 6 voxels from the other plate, the far ones 7.
    first, second = make_box((20, 9, 9), (3, 0, 0), (4, 9, 9)), make_box((20, 9, 9), (10, 0, 0), (11, 9, 9))
    scores = score(first, second, spacing_mm=spacing_mm)
    assert scores.hd95_mm == pytest.approx(7 * spacing_mm[0])
    assert scores.assd_mm == pytest.approx(6.5 * spacing_mm[0])
    assert scores.nsd == 0.0
    assert score(first, second, spacing_mm=spacing_mm, tolerance_mm=6 * spacing_mm[0]).nsd == pytest.approx(0.5)
    assert score(first, second, spacing_mm=spacing_mm, tolerance_mm=7 * spacing_mm[0]).nsd == 1.0


def test_concentric_spheres_are_apart_by_the_difference_of_their_radii():
    inner, outer = make_sphere((61, 61, 61), 20), make_sphere((61, 61, 61), 26)
    scores = score(inner, outer)
    # A surface is a band of cells, and the nearest cell is on the near side of the other band: distances come out up
    # to a voxel short, here half of one.
    assert scores.assd_mm == pytest.approx(5.5, abs=0.1)
    assert scores.hd95_mm == pytest.approx(6.0, abs=0.2)
    assert score(inner, outer, tolerance_mm=4.5).nsd == 0.0
    assert score(inner, outer, tolerance_mm=7.0).nsd == 1.0


def test_a_part_that_sticks_out_counts_by_its_area():
    # A contour of 1 mm cells: the square 10x10 against the same square with one more column.
    first, second = make_box((1, 20, 20), (0, 2, 2), (1, 12, 12)), make_box((1, 20, 20), (0, 2, 2), (1, 12, 13))
    lengths = [18 + 18 + 2 * np.sqrt(2), 18 + 20 + 2 * np.sqrt(2)]
    # Of the first, the nine inner elements of the right side are 1 mm from the second; of the second, those and the
    # two corners are 1 mm from the first.
    apart = [9.0, 9 + np.sqrt(2)]
    scores = score(first, second, tolerance_mm=0.0)
    assert scores.mean_ref_to_pred_mm == pytest.approx(apart[0] / lengths[0])
    assert scores.mean_pred_to_ref_mm == pytest.approx(apart[1] / lengths[1])
    assert scores.assd_mm == pytest.approx(sum(apart) / sum(lengths))
    assert scores.nsd == pytest.approx(1 - sum(apart) / sum(lengths))
    assert scores.hd95_mm == 1.0


def test_hd95_leaves_out_five_percent_of_the_area():
    shape = (1, 3, 400)
    line, longer = make_box(shape, (0, 1, 1), (1, 2, 300)), make_box(shape, (0, 1, 1), (1, 2, 310))
    longest = make_box(shape, (0, 1, 1), (1, 2, 330))
    assert score(line, longer).hd95_mm == 0.0
    # 30 mm more of about 330: 5 % of the outline is beyond 30 - 330 * 0.05 = 13.5 mm.
    assert score(line, longest).hd95_mm == pytest.approx(13.5, abs=1.0)


def test_scores_do_not_depend_on_which_mask_is_the_reference():
    first, second = make_sphere((30, 30, 30), 9), make_box((30, 30, 30), (4, 8, 8), (22, 20, 23))
    one, other = (score(*masks, spacing_mm=(2.0, 1.0, 0.7)) for masks in ((first, second), (second, first)))
    assert (one.hd95_mm, one.nsd) == (other.hd95_mm, other.nsd)
    assert one.assd_mm == pytest.approx(other.assd_mm)
    assert one.mean_ref_to_pred_mm == other.mean_pred_to_ref_mm != one.mean_pred_to_ref_mm


def test_distances_equal_those_of_a_distance_transform():
    generator = np.random.default_rng(5)
    # Cells are numbered in a grid one larger than the map.
    first, second = generator.random((14, 15, 16)) > 0.97, generator.random((14, 15, 16)) > 0.9
    grid = choose_surface_grid((13, 14, 15), (3.0, 0.7, 1.1))
    distances = measure_distances(np.flatnonzero(first), np.flatnonzero(second), grid)
    np.testing.assert_array_equal(distances, distance_transform_edt(~second, sampling=grid.spacing_mm)[first])


def test_a_header_rounded_up_does_not_cost_the_tolerance():
    first, second = make_box((4, 4, 9), (0, 0, 2), (4, 4, 3)), make_box((4, 4, 9), (0, 0, 3), (4, 4, 4))
    assert score(first, second, spacing_mm=(1.0, 1.0, 1.000001)).nsd == 1.0
    assert score(first, second, spacing_mm=(1.0, 1.0, 1.001)).nsd == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("shape", "kept"), [((1, 4, 9), (4, 9)), ((4, 1, 9), (4, 9)), ((4, 9, 1), (4, 9)), ((1, 4, 1), (4, 1))]
)
def test_a_flat_image_is_measured_in_its_plane(shape, kept):
    assert choose_surface_grid(shape, (2.0, 3.0, 4.0)).shape == kept
    mask = np.ones(shape, dtype=bool)
    assert score(mask, mask).nsd == 1.0


def test_the_stand_in_spacing_of_a_flat_image_does_not_widen_the_tolerance():
    first, second = make_box((1, 4, 9), (0, 0, 2), (1, 4, 3)), make_box((1, 4, 9), (0, 0, 3), (1, 4, 4))
    assert score(first, second, spacing_mm=(999.0, 1.0, 1.005)).nsd < 1.0
    assert score(first, second, spacing_mm=(999.0, 1.0, 1.0)).nsd == 1.0


def test_two_empty_masks_have_nothing_to_measure():
    empty = np.zeros((4, 4, 4), dtype=bool)
    scores = score(empty, empty)
    assert np.isnan([scores.hd95_mm, scores.assd_mm, scores.nsd, scores.mean_ref_to_pred_mm]).all()


@pytest.mark.parametrize("swap", [False, True])
def test_one_empty_mask_is_infinitely_far(swap):
    masks = [np.zeros((4, 4, 4), dtype=bool), np.ones((4, 4, 4), dtype=bool)]
    scores = score(*(reversed(masks) if swap else masks))
    assert (scores.hd95_mm, scores.assd_mm, scores.nsd) == (np.inf, np.inf, 0.0)
    assert (scores.mean_ref_to_pred_mm, scores.mean_pred_to_ref_mm) == (np.inf, np.inf)
