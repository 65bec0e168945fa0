"""The label with the most weight wins; ties go to the nearest voxel, or to the lowest label."""

import numpy as np
import pytest
import torch

from stu_pipeline.training.augmentation.label_voting import PaddedLabels, pad_labels, vote_labels

DEVICE_KINDS = ["cpu", "accelerator"]


def vote(labels, *positions, kind="cpu", origin=None):
    """Vote at positions (one list per axis); `accelerator` takes the path that never looks at values."""
    padded = pad_labels(torch.as_tensor(labels, dtype=torch.int16)[None])
    if kind == "accelerator":
        padded = PaddedLabels(padded.maps, None)
    tensors = [torch.tensor(position, dtype=torch.float32) for position in positions]
    return vote_labels(padded, tensors, origin or [0] * len(positions))[0].tolist()


@pytest.mark.parametrize("kind", DEVICE_KINDS)
def test_whole_positions_read_the_voxel(kind):
    labels = [[0, 5, 9], [7, 300, 2]]
    assert vote(labels, [0.0, 0.0, 1.0, 1.0], [0.0, 2.0, 0.0, 1.0], kind=kind) == [0, 9, 7, 300]


@pytest.mark.parametrize("kind", DEVICE_KINDS)
def test_equal_labels_add_their_weights(kind):
    # The nearest voxel says 1 with 0.36 of the weight; the three others agree on 4.
    assert vote([[1, 4], [4, 4]], [0.4], [0.4], kind=kind) == [4]
    assert vote([[1, 4], [3, 4]], [0.4], [0.4], kind=kind) == [4]
    assert vote([[1, 4], [3, 2]], [0.4], [0.4], kind=kind) == [1]


@pytest.mark.parametrize("kind", DEVICE_KINDS)
def test_a_tie_goes_to_the_nearest_voxel_and_half_to_the_even_one(kind):
    labels = [[8, 3, 6, 1]]
    assert vote(labels, [0.0] * 3, [0.5, 1.5, 2.5], kind=kind) == [8, 6, 6]


@pytest.mark.parametrize("kind", DEVICE_KINDS)
def test_evenness_counts_from_the_crop_not_from_the_origin(kind):
    labels = [[8, 3, 6, 1]]
    assert vote(labels, [0.0] * 3, [-0.5, 0.5, 1.5], kind=kind, origin=[0, 1]) == [8, 6, 6]


@pytest.mark.parametrize("kind", DEVICE_KINDS)
def test_a_tie_without_the_nearest_label_goes_to_the_lowest(kind):
    # In the middle of a cell every corner weighs the same and the first one is the nearest.
    middle = ([0.5], [0.5], [0.5])
    assert vote([[[2, 9], [9, 4]], [[4, 4], [9, 1]]], *middle, kind=kind) == [4]
    assert vote([[[9, 2], [9, 4]], [[4, 4], [9, 1]]], *middle, kind=kind) == [9]
    assert vote([[[2, 9], [9, 4]], [[9, 4], [4, 9]]], *middle, kind=kind) == [9]


@pytest.mark.parametrize("kind", DEVICE_KINDS)
def test_outside_is_label_minus_one_and_begins_half_a_voxel_out(kind):
    labels = [[6, 6], [6, 6]]
    assert vote(labels, [0.0] * 5, [-0.4, -0.6, 1.4, 1.6, 50.0], kind=kind) == [6, -1, 6, -1, -1]
    assert vote(labels, [-3.0, -1.5, -60.0, 1.45], [0.0, 0.0, 0.0, 1.45], kind=kind) == [-1, -1, -1, -1]


@pytest.mark.parametrize("kind", DEVICE_KINDS)
def test_large_and_negative_labels_are_labels_like_others(kind):
    labels = [[32767, 32767], [-1, 0]]
    assert vote(labels, [0.2, 0.9], [0.5, 0.1], kind=kind) == [32767, -1]


@pytest.mark.parametrize("shape", [(7, 8, 9), (11, 6)])
def test_both_paths_give_the_same_labels(shape):
    generator = np.random.default_rng(4)
    labels = torch.from_numpy(generator.integers(-1, 6, (3, *shape)).astype(np.int16))
    positions = [torch.from_numpy(generator.uniform(-3, size + 2, (4, 500)).astype(np.float32)) for size in shape]
    positions[0][0] = positions[0][0].round() + 0.5
    padded = pad_labels(labels)
    skipping = vote_labels(padded, positions, [0] * len(shape))
    assert skipping.shape == (3, 4, 500)
    assert torch.equal(skipping, vote_labels(PaddedLabels(padded.maps, None), positions, [0] * len(shape)))


def test_an_accelerator_is_never_waited_for():
    # A meta tensor has no values: whatever would wait for one raises.
    padded = pad_labels(torch.zeros((2, 4, 5, 6), dtype=torch.int16, device="meta"))
    positions = [torch.zeros((3, 4, 5), device="meta") for _ in range(3)]
    assert vote_labels(padded, positions, [1, 2, 3]).shape == (2, 3, 4, 5)
