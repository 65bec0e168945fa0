import pytest

from stu_pipeline.preparation.target_grid import complete_target_spacing, compute_target_shape, find_separate_axis


def test_the_target_shape_keeps_the_extent():
    assert compute_target_shape((20, 100, 90), (5.0, 0.8, 0.8), (2.5, 1.6, 0.8)) == (40, 50, 90)


def test_halves_are_rounded_to_even():
    assert compute_target_shape((5, 7, 1), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0)) == (2, 4, 0)


def test_a_2d_target_keeps_the_distance_between_slices():
    assert complete_target_spacing((5.0, 0.8, 0.7), (1.0, 1.1)) == (5.0, 1.0, 1.1)


def test_a_3d_target_is_taken_as_it_is():
    assert complete_target_spacing((5.0, 0.8, 0.7), (1.0, 1.0, 1.0)) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("spacing", "target", "axis"),
    [
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),
        ((5.0, 0.8, 0.8), (1.0, 1.0, 1.0), 0),
        ((1.0, 1.0, 1.0), (1.0, 4.0, 1.0), 1),
        ((0.8, 0.8, 5.0), (4.0, 1.0, 1.0), 2),
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),
        ((0.24, 1.25, 1.25), (1.0, 1.0, 1.0), None),
    ],
)
def test_the_one_coarse_axis_stands_apart(spacing, target, axis):
    assert find_separate_axis(spacing, target) == axis


def test_a_plan_can_force_or_forbid_a_separate_axis():
    assert find_separate_axis((2.0, 1.0, 1.0), (1.0, 1.0, 1.0), force=True) == 0
    assert find_separate_axis((1.0, 1.0, 1.0), (9.0, 1.0, 1.0), force=True) is None
    assert find_separate_axis((9.0, 1.0, 1.0), (1.0, 1.0, 1.0), force=False) is None


def test_a_plan_can_move_the_threshold():
    assert find_separate_axis((2.0, 1.0, 1.0), (1.0, 1.0, 1.0), threshold=1.5) == 0
