"""The ring of planes: bounded, in order, and empty again where it comes round."""

import math

import pytest
import torch

from stu_pipeline.inference.ring import Ring, count_ring_bytes
from stu_pipeline.inference.tiles import build_tile_grid

CPU = torch.device("cpu")


def _build(shape, patch, axis, *, outputs=2):
    grid = build_tile_grid(shape, patch, 0.5, axis)
    importance = torch.rand(grid.extent, generator=torch.Generator().manual_seed(0)) + 0.5
    return grid, Ring(grid, outputs, importance, CPU)


@pytest.mark.parametrize(("shape", "axis"), [((50, 9, 11), 0), ((9, 50, 11), 1), ((9, 11, 50), 2)])
def test_the_ring_is_as_thick_as_a_tile_however_long_the_image_is(shape, axis):
    grid, ring = _build(shape, (8, 8, 8), axis, outputs=5)
    assert grid.ring_shape[axis] == 8
    expected = 4 * (5 + 1) * 8 * 9 * 11 + 4 * 8**3
    assert ring.num_bytes == count_ring_bytes(grid, 5) == expected
    longer = build_tile_grid([size * 10 if i == axis else size for i, size in enumerate(shape)], (8, 8, 8), 0.5, axis)
    assert count_ring_bytes(longer, 5) == expected


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_constant_tiles_give_a_constant_image_at_every_lap(axis):
    grid, ring = _build((13, 15, 17), (4, 4, 4), axis)
    tile = torch.stack([torch.full((4, 4, 4), 3.0), torch.full((4, 4, 4), -1.0)])
    slabs = []
    for corner in grid.list_corners():
        slabs += [(slab.start, slab.scores.clone()) for slab in ring.release(corner[axis])]
        ring.add(corner, tile, 0.5)
    slabs += [(slab.start, slab.scores.clone()) for slab in ring.release(grid.padded_shape[axis])]
    assert len(slabs) > 4
    scores = torch.cat([scores for _, scores in slabs], 1 + axis)
    assert scores.shape == (2, 13, 15, 17)
    torch.testing.assert_close(scores[0], torch.full((13, 15, 17), 1.5))
    torch.testing.assert_close(scores[1], torch.full((13, 15, 17), -0.5))


def test_what_a_consumer_writes_into_a_slab_does_not_come_back():
    grid, ring = _build((12, 4, 4), (4, 4, 4), 0)
    values = []
    for corner in grid.list_corners():
        for slab in ring.release(corner[0]):
            values += slab.scores.unique().tolist()
            slab.scores.fill_(math.nan)
        ring.add(corner, torch.ones(2, 4, 4, 4), 1.0)
    assert values
    assert values == pytest.approx([1.0] * len(values))


def test_planes_of_padding_are_never_yielded():
    grid, ring = _build((3, 2, 5), (8, 8, 8), 0)
    for corner in grid.list_corners():
        ring.add(corner, torch.ones(2, 8, 8, 8), 1.0)
    slabs = list(ring.release(8))
    assert [(slab.start, slab.stop, tuple(slab.scores.shape)) for slab in slabs] == [(0, 3, (2, 3, 2, 5))]
