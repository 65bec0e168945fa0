"""Rotating and scaling a crop: turns of known geometry, slices kept apart, outside filled."""

import numpy as np
import pytest
import torch

from stu_pipeline.training.augmentation import spatial
from stu_pipeline.training.augmentation.spatial import transform_sample

QUARTER = np.array([[0.0, -1.0], [1.0, 0.0]])


def make_sample(shape, *, num_channels=1, num_maps=1, seed=0):
    generator = np.random.default_rng(seed)
    data = torch.from_numpy(generator.random((num_channels, *shape), dtype=np.float32))
    return data, torch.from_numpy(generator.integers(0, 6, (num_maps, *shape)).astype(np.int16))


def find_center(shape):
    return tuple((size - 1) / 2 for size in shape)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 8), (7, 6, 9)])
def test_the_identity_changes_nothing(shape):
    data, labels = make_sample(shape, num_channels=2, num_maps=2)
    moved = transform_sample(data, labels, np.eye(len(shape)) * (1 + 1e-15), find_center(shape), shape)
    torch.testing.assert_close(moved[0], data, rtol=0, atol=1e-5)
    assert torch.equal(moved[1], labels)
    assert moved[0].dtype == torch.float32 and moved[1].dtype == torch.int16


def test_a_quarter_turn_turns_the_array():
    data, labels = make_sample((8, 8))
    moved = transform_sample(data, labels, QUARTER, find_center((8, 8)), (8, 8))
    # Output row i, column j shows row 7 - j, column i.
    assert torch.equal(moved[1], labels.rot90(-1, (1, 2)))
    torch.testing.assert_close(moved[0], data.rot90(-1, (1, 2)), rtol=0, atol=1e-5)


def test_the_axes_keep_their_order_in_volumes():
    data, labels = make_sample((6, 9, 9))
    affine = np.eye(3)
    affine[1:, 1:] = QUARTER
    turned = transform_sample(data, labels, affine, find_center((6, 9, 9)), (6, 9, 9))
    assert torch.equal(turned[1], labels.rot90(-1, (2, 3)))
    affine = np.eye(3)
    affine[:2, :2] = QUARTER
    data, labels = make_sample((9, 9, 6))
    turned = transform_sample(data, labels, affine, find_center((9, 9, 6)), (9, 9, 6))
    assert torch.equal(turned[1], labels.rot90(-1, (1, 2)))


def test_a_factor_above_one_shows_more_of_the_image():
    data = torch.zeros((1, 20, 20, 20))
    data[:, 5:15, 5:15, 5:15] = 1
    labels = data.to(torch.int16)
    larger = transform_sample(data, labels, np.eye(3) * 0.7, find_center((20,) * 3), (20,) * 3)
    smaller = transform_sample(data, labels, np.eye(3) * 1.4, find_center((20,) * 3), (20,) * 3)
    assert (larger[1] == 1).sum() > 2 * labels.sum() > 4 * (smaller[1] == 1).sum()


def test_the_center_says_which_part_of_the_crop_is_seen():
    data, labels = make_sample((12, 14, 16))
    moved = transform_sample(data, labels, np.eye(3) + 1e-15, (5.5, 4.5, 9.5), (4, 4, 4))
    assert torch.equal(moved[1], labels[:, 4:8, 3:7, 8:12])
    torch.testing.assert_close(moved[0], data[:, 4:8, 3:7, 8:12], rtol=0, atol=1e-5)


def test_outside_the_crop_lie_zero_and_minus_one():
    data, labels = make_sample((4, 4, 4))
    moved = transform_sample(data + 1, labels, np.eye(3) * 3.0, find_center((4, 4, 4)), (4, 4, 4))
    assert (moved[0][:, 0] == 0).all() and (moved[1][:, 0] == -1).all()
    assert (moved[0][:, 1:3, 1:3, 1:3] > 0).all()


def test_an_empty_crop_is_all_outside():
    moved = transform_sample(
        torch.zeros((2, 0, 5, 5)), torch.zeros((1, 0, 5, 5), dtype=torch.int16), np.eye(3), (0.0, 2.0, 2.0), (3, 4, 5)
    )
    assert moved[0].shape == (2, 3, 4, 5) and not moved[0].any()
    assert moved[1].shape == (1, 3, 4, 5) and (moved[1] == -1).all()


def make_flat_affine(angle_rad, factor):
    affine = np.eye(3)
    sine, cosine = np.sin(angle_rad), np.cos(angle_rad)
    affine[1:, 1:] = np.array([[cosine, -sine], [sine, cosine]]) * factor
    return affine


def test_slices_are_transformed_as_flat_images():
    data, labels = make_sample((5, 14, 13), num_channels=2)
    affine = make_flat_affine(0.8, 1.2)
    moved = transform_sample(data, labels, affine, find_center((5, 14, 13)), (5, 9, 8))
    for index in range(5):
        flat = transform_sample(data[:, index], labels[:, index], affine[1:, 1:], find_center((14, 13)), (9, 8))
        assert torch.equal(moved[0][:, index], flat[0]) and torch.equal(moved[1][:, index], flat[1])


@pytest.mark.parametrize(("first", "count"), [(-2, 5), (1, 3), (3, 9), (-1, 12), (20, 4), (-9, 4)])
def test_slices_outside_the_crop_are_filled(first, count):
    data, labels = make_sample((6, 8, 8))
    affine = make_flat_affine(0.3, 1.0)
    center = (first + (count - 1) / 2, 3.5, 3.5)
    moved = transform_sample(data, labels, affine, center, (count, 4, 4))
    whole = transform_sample(data, labels, affine, (2.5, 3.5, 3.5), (6, 4, 4))
    for index in range(count):
        source = first + index
        if 0 <= source < 6:
            assert torch.equal(moved[0][:, index], whole[0][:, source])
            assert torch.equal(moved[1][:, index], whole[1][:, source])
        else:
            assert not moved[0][:, index].any() and (moved[1][:, index] == -1).all()


def test_how_the_patch_is_cut_into_slabs_changes_nothing(monkeypatch):
    data, labels = make_sample((13, 12, 11), num_channels=2)
    affine = np.array([[0.9, 0.2, 0.1], [-0.1, 1.1, 0.2], [0.0, -0.3, 0.8]])
    whole = transform_sample(data, labels, affine, find_center((13, 12, 11)), (9, 8, 7))
    monkeypatch.setattr(spatial, "_SMALL_SLAB_VOXELS", 1)
    assert len(list(spatial._cut_slabs((9, 8, 7), num_maps=1))) == 9
    slabs = transform_sample(data, labels, affine, find_center((13, 12, 11)), (9, 8, 7))
    assert torch.equal(whole[0], slabs[0]) and torch.equal(whole[1], slabs[1])


@pytest.mark.parametrize("affine", [np.eye(3) * 1.1, make_flat_affine(0.4, 0.9)])
def test_an_accelerator_is_never_waited_for(affine):
    # A meta tensor has no values: whatever would wait for one raises.
    data = torch.zeros((2, 9, 9, 9), device="meta")
    labels = torch.zeros((1, 9, 9, 9), dtype=torch.int16, device="meta")
    moved = transform_sample(data, labels, affine, find_center((9, 9, 9)), (9, 6, 6))
    assert moved[0].shape == (2, 9, 6, 6) and moved[1].shape == (1, 9, 6, 6)
