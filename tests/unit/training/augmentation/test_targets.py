"""Targets of every level, regions, previous labels and the masked outside."""

import pytest
import torch

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.training.augmentation.settings import AugmentationSettings
from stu_pipeline.training.augmentation.targets import blank_outside, encode_previous, make_targets, remove_outside


def make_settings(**changes):
    values = {"rotation_rad": (0.0, 0.0), "is_dummy_2d": False, "mirroring": Mirroring(axes=()), **changes}
    return AugmentationSettings(patch=(4, 4), initial_patch=(4, 4), **values)


def as_labels(rows):
    return torch.tensor(rows, dtype=torch.int16)[None, None]


def test_channels_outside_the_image_become_zero_and_others_stay():
    data = torch.ones((1, 3, 2, 2))
    labels = as_labels([[-1, 0], [1, -1]])
    blanked = blank_outside(data, labels, (0, 2))
    assert blanked is data
    assert blanked[0, 0].tolist() == blanked[0, 2].tolist() == [[0, 1], [1, 0]]
    assert blanked[0, 1].tolist() == [[1, 1], [1, 1]]
    assert (blank_outside(torch.ones((1, 1, 2, 2)), labels, ()) == 1).all()


def test_outside_becomes_background():
    assert remove_outside(as_labels([[-1, 0], [3, -1]])).tolist() == [[[[0, 0], [3, 0]]]]


def test_the_previous_labels_become_one_channel_each():
    previous = torch.tensor([[[0, 2], [5, 2]]], dtype=torch.int16)
    channels = encode_previous(previous, (2, 5, 7))
    assert channels.dtype == torch.float32
    assert channels.tolist() == [[[[0, 1], [0, 1]], [[0, 0], [1, 0]], [[0, 0], [0, 0]]]]


def test_without_deep_supervision_there_is_one_target():
    labels = as_labels([[0, 1], [2, 3]])
    (target,) = make_targets(labels, make_settings())
    assert torch.equal(target, labels) and target.dtype == torch.int16


def test_regions_hold_their_labels_and_the_ignore_label_comes_last():
    labels = as_labels([[0, 1], [2, 9]])
    (target,) = make_targets(labels, make_settings(regions=((1, 2), (2,)), ignore_label=9))
    assert target.dtype == torch.bool
    assert target[0].int().tolist() == [[[0, 1], [1, 0]], [[0, 0], [1, 0]], [[0, 0], [0, 1]]]


def test_a_coarser_level_takes_the_voxel_nearest_to_the_middle():
    labels = as_labels([list(range(4 * row, 4 * row + 4)) for row in range(4)])
    scales = ((1.0, 1.0), (1.0, 0.5), (0.5, 0.5), (0.25, 0.25))
    targets = make_targets(labels, make_settings(deep_supervision_scales=scales))
    assert [target.shape[2:] for target in targets] == [(4, 4), (4, 2), (2, 2), (1, 1)]
    assert torch.equal(targets[0], labels)
    assert targets[1][0, 0].tolist() == [[1, 3], [5, 7], [9, 11], [13, 15]]
    assert targets[2][0, 0].tolist() == [[5, 7], [13, 15]]
    assert targets[3][0, 0].tolist() == [[10]]


@pytest.mark.parametrize("size", [5, 6, 7, 9, 12, 15])
@pytest.mark.parametrize("scale", [0.5, 0.25, 1 / 3])
def test_any_size_is_shrunk_as_nearest_exact_does(size, scale):
    labels = torch.arange(size * size, dtype=torch.int16).view(1, 1, size, size)
    (target,) = make_targets(labels, make_settings(deep_supervision_scales=((scale, scale),)))
    expected = torch.nn.functional.interpolate(labels.float(), [round(size * scale)] * 2, mode="nearest-exact")
    assert torch.equal(target.float(), expected)


def test_an_accelerator_is_never_waited_for():
    # A meta tensor has no values: whatever would wait for one raises.
    labels = remove_outside(torch.zeros((2, 1, 8, 8), dtype=torch.int16, device="meta"))
    settings = make_settings(regions=((1, 2),), deep_supervision_scales=((1.0, 1.0), (0.5, 0.5), (0.3, 0.3)))
    assert [target.shape[2:] for target in make_targets(labels, settings)] == [(8, 8), (4, 4), (2, 2)]
    data = blank_outside(torch.zeros((2, 1, 8, 8), device="meta"), labels, (0,))
    assert data.shape == (2, 1, 8, 8)
    assert encode_previous(labels[:, 0], (1, 2)).shape == (2, 2, 8, 8)
