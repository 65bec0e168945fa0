import numpy as np
import pytest
import torch

from stu_pipeline.inference.resampled_slabs import needs_whole_case, resample_slabs
from stu_pipeline.preparation.resampling import resample_image
from tests.dense_export import cut_slabs, make_grid, resample_linearly

SHAPES = [((9, 10, 11), (20, 31, 17)), ((20, 21, 24), (9, 12, 10)), ((1, 7, 5), (6, 7, 11)), ((6, 6, 6), (6, 6, 6))]


def make_scores(shape, seed=0):
    return np.random.default_rng(seed).normal(size=(3, *shape)).astype(np.float32)


def join(slabs, axis):
    """Join slabs after checking that they follow each other."""
    slabs = list(slabs)
    assert [slab.start for slab in slabs] == [0, *(slab.stop for slab in slabs[:-1])]
    assert {slab.axis for slab in slabs} == {axis}
    return torch.cat([slab.scores for slab in slabs], dim=1 + axis)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_linear_scores_are_exactly_the_nested_means_for_any_thickness(shapes, axis):
    scores = make_scores(shapes[0])
    for separate_axis, separate_order in ((None, 0), (0, 0), (1, 1), (2, 0)):
        grid = make_grid(*shapes, separate_axis=separate_axis, separate_order=separate_order)
        expected = resample_linearly(scores, grid)
        for thickness, max_planes in ((1, None), ([3, 1, 4], 2), (100, 5), (2, 1)):
            slabs = list(resample_slabs(cut_slabs(scores, axis, thickness), grid, axis=axis, max_planes=max_planes))
            assert all(slab.scores.shape[1 + axis] <= (max_planes or 100) for slab in slabs)
            assert np.array_equal(join(slabs, axis), expected)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("separate_axis", [None, 0, 1, 2])
def test_any_plan_is_resampled_as_images_are(shapes, separate_axis):
    scores = make_scores(shapes[0])
    for order, separate_order in ((3, 0), (3, 1), (3, 3), (1, 3), (0, 1)):
        how = {"order": order, "separate_axis": separate_axis, "separate_order": separate_order}
        grid = make_grid(*shapes, **how)
        expected = resample_image(scores.copy(), shapes[1], **how)
        for axis in range(3):
            result = join(resample_slabs(cut_slabs(scores, axis, [2, 3]), grid, axis=axis, max_planes=4), axis)
            assert np.allclose(result, expected, atol=3e-6)


def test_a_slab_is_used_up_before_the_next_one_is_asked_for():
    scores = make_scores((8, 5, 6))
    grid = make_grid((8, 5, 6), (19, 11, 13))
    buffer = torch.empty((3, 2, 5, 6))

    def reuse_memory():
        for slab in cut_slabs(scores, 0, 2):
            buffer.copy_(slab.scores)
            yield type(slab)(start=slab.start, axis=0, scores=buffer)

    assert np.array_equal(join(resample_slabs(reuse_memory(), grid, axis=0), 0), resample_linearly(scores, grid))


def test_planes_are_given_as_soon_as_their_corners_are_there():
    given = []
    grid = make_grid((8, 4, 4), (16, 8, 8))

    def watch():
        for slab in cut_slabs(make_scores((8, 4, 4)), 0, 2):
            yield slab
            given.append(sum(part.scores.shape[1] for part in parts))

    parts = []
    for part in resample_slabs(watch(), grid, axis=0, max_planes=1):
        parts.append(part)
    assert given == [3, 7, 11, 16]


def test_half_precision_becomes_float32_also_where_grids_agree():
    scores = torch.from_numpy(make_scores((4, 4, 4))).half()
    for cropped in ((4, 4, 4), (7, 7, 7)):
        slabs = list(resample_slabs(cut_slabs(scores, 0, 2), make_grid((4, 4, 4), cropped), axis=0))
        assert {slab.scores.dtype for slab in slabs} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "axes"),
    [
        ({}, []),
        ({"order": 3}, [0, 1, 2]),
        ({"order": 3, "separate_axis": 0}, [1, 2]),
        ({"order": 3, "separate_axis": 2, "separate_order": 3}, [0, 1, 2]),
        ({"order": 1, "separate_axis": 1, "separate_order": 3}, [1]),
    ],
)
def test_a_case_is_collected_only_for_a_cubic_spline_along_the_walk_axis(changes, axes):
    grid = make_grid((4, 5, 6), (8, 9, 10), **changes)
    assert [axis for axis in range(3) if needs_whole_case(grid, axis)] == axes
    kept = make_grid((4, 5, 6), (8, 9, 6), **changes)
    kept_axes = [axis for axis in axes if axis != 2 or grid.separate_axis != 2]
    assert [axis for axis in range(3) if needs_whole_case(kept, axis)] == kept_axes
    same = make_grid((4, 5, 6), (4, 5, 6), **changes)
    assert not any(needs_whole_case(same, axis) for axis in range(3))
