"""Where tiles lie, their order, their weights, and how they are cut."""

import itertools
import math

import pytest
import torch

from stu_pipeline.inference.tiles import (
    build_importance,
    build_tile_grid,
    choose_walk_axis,
    cut_tiles,
    find_tile_starts,
)


@pytest.mark.parametrize("step", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("size", [16, 17, 31, 32, 100])
def test_tiles_cover_the_image_and_are_at_most_a_step_apart(size, step):
    (starts,) = find_tile_starts([size], [16], step)
    assert starts[0] == 0
    assert starts[-1] == size - 16
    assert all(0 < after - before <= math.ceil(16 * step) for before, after in itertools.pairwise(starts))


def test_a_flat_patch_slides_in_every_slice():
    grid = build_tile_grid((3, 8, 12), (8, 8), 0.5, 0)
    assert grid.extent == (1, 8, 8)
    assert grid.list_corners() == [(z, 0, x) for z in range(3) for x in (0, 4)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_tiles_never_go_back_along_the_walk_axis(axis):
    grid = build_tile_grid((20, 30, 40), (8, 12, 16), 0.5, axis)
    corners = grid.list_corners()
    assert len(corners) == len(set(corners)) == grid.num_tiles
    places = [corner[axis] for corner in corners]
    assert places == sorted(places)


def test_importance_peaks_in_the_centre_and_is_never_zero():
    importance = build_importance((32, 24, 16))
    assert importance.max() == importance[16, 12, 8] == 10
    assert importance.min() > 0


def test_importance_falls_by_the_gaussian_of_an_eighth_of_the_patch():
    importance = build_importance((64,))
    assert float(importance[32 + 8]) == pytest.approx(10 * math.exp(-0.5), rel=1e-3)


def test_a_small_image_lies_in_the_middle_of_zeros_and_the_odd_voxel_is_behind():
    grid = build_tile_grid((3, 4, 9), (6, 4, 4), 0.5, 2)
    assert grid.low == (1, 0, 0)
    assert grid.padded_shape == (6, 4, 9)
    tiles = cut_tiles(torch.ones(2, 3, 4, 9), grid, grid.list_corners())
    assert tiles.shape == (4, 2, 6, 4, 4)
    assert tiles[:, :, 1:4].all()
    assert tiles.sum() == 4 * 2 * 3 * 4 * 4


def test_tiles_are_cut_where_they_lie():
    image = torch.arange(5 * 6 * 7.0).view(1, 5, 6, 7)
    grid = build_tile_grid((5, 6, 7), (2, 3, 4), 1.0, 1)
    corners = grid.list_corners()[3:7]
    for tile, (z, y, x) in zip(cut_tiles(image, grid, corners), corners, strict=True):
        assert torch.equal(tile, image[:, z : z + 2, y : y + 3, x : x + 4])


@pytest.mark.parametrize(
    ("shape", "patches", "axis"),
    [
        ((100, 40, 30), [(16, 16, 16)], 0),
        ((40, 30, 100), [(16, 16, 16)], 2),
        ((60, 60, 60), [(16, 16, 16)], 0),
        ((60, 60, 60), [(32, 16, 32)], 1),
        ((30, 40, 30), [(32, 32, 32), (16, 16, 16)], 1),
        ((5, 400, 30), [(16, 16)], 0),
    ],
)
def test_the_walk_goes_where_the_fewest_voxels_are_kept(shape, patches, axis):
    assert choose_walk_axis(shape, *patches) == axis
