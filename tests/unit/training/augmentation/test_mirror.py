"""Mirroring flips voxels and, along a swapping axis, the labels of each pair."""

import itertools

import pytest
import torch

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.training.augmentation.mirror import build_swap_table, mirror_sample

SIDES = Mirroring(axes=(0, 1, 2), swapping_axes=(2,), pairs=((1, 2), (5, 4)))
CPU = torch.device("cpu")


def mirror(labels, axes, mirroring=SIDES):
    data = labels.float()
    return mirror_sample(data, labels, axes, mirroring, build_swap_table(mirroring, CPU))


def make_labels(num_maps=1):
    return torch.randint(-1, 7, (num_maps, 3, 4, 5), generator=torch.Generator().manual_seed(2), dtype=torch.int16)


@pytest.mark.parametrize("axes", [axes for count in (1, 2, 3) for axes in itertools.combinations(range(3), count)])
def test_pairs_change_places_only_along_the_swapping_axis(axes):
    labels = make_labels(2)
    data, mirrored = mirror(labels, axes)
    dims = [axis + 1 for axis in axes]
    assert torch.equal(data, labels.float().flip(dims))
    expected = labels.flip(dims).clone()
    if 2 in axes:
        before = expected.clone()
        for left, right in SIDES.pairs:
            expected[before == left], expected[before == right] = right, left
    assert mirrored.dtype == torch.int16
    assert torch.equal(mirrored, expected)


def test_two_swapping_axes_leave_left_on_the_left():
    mirroring = Mirroring(axes=(0, 1), swapping_axes=(0, 1), pairs=((1, 2),))
    labels = make_labels()
    assert torch.equal(mirror(labels, (0, 1), mirroring)[1], labels.flip((1, 2)))
    assert not torch.equal(mirror(labels, (0,), mirroring)[1], labels.flip(1))


def test_no_axis_gives_back_the_input():
    labels = make_labels()
    assert mirror(labels, ())[1] is labels


def test_without_pairs_or_swapping_axes_there_is_no_table():
    assert build_swap_table(Mirroring(axes=(0,), swapping_axes=(0,)), CPU) is None
    assert build_swap_table(Mirroring(axes=(0,), pairs=((1, 2),)), CPU) is None


def test_the_table_leaves_all_other_labels_as_they_are():
    table = build_swap_table(SIDES, CPU)
    changed = {label - 1: int(table[label]) for label in range(32769) if int(table[label]) != label - 1}
    assert table.shape == (32769,)
    assert changed == {1: 2, 2: 1, 4: 5, 5: 4}


def test_mirroring_twice_gives_back_the_sample():
    labels = make_labels()
    data, mirrored = mirror(labels, (0, 2))
    again = mirror_sample(data, mirrored, (0, 2), SIDES, build_swap_table(SIDES, CPU))
    assert torch.equal(again[0], labels.float()) and torch.equal(again[1], labels)
