"""Mirrored copies and their way back."""

import pytest
import torch

from stu_pipeline.datasets.laterality import SideSwap
from stu_pipeline.inference.mirroring import list_mirrorings, mirror_tiles, turn_back


def test_all_combinations_of_axes_are_mirrored_and_the_plain_copy_is_first():
    assert list_mirrorings(()) == [()]
    assert list_mirrorings((0, 1, 2)) == [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


@pytest.mark.parametrize("axes", list_mirrorings((0, 1, 2)))
def test_turning_back_undoes_mirroring(axes):
    swap = SideSwap(axes=(1,), inputs=(1, 0), outputs=(1, 0))
    x = torch.randn(2, 2, 3, 4, 5)
    assert torch.equal(turn_back(mirror_tiles(x, axes, swap), axes, swap), x)
    assert torch.equal(turn_back(mirror_tiles(x, axes, None), axes, None), x)


def test_sides_change_places_only_where_left_becomes_right():
    swap = SideSwap(axes=(1,), inputs=(1, 0), outputs=(0,))
    x = torch.tensor([[[[[1.0]]], [[[2.0]]]]])
    assert mirror_tiles(x, (0,), swap).flatten().tolist() == [1, 2]
    assert mirror_tiles(x, (0, 1), swap).flatten().tolist() == [2, 1]
