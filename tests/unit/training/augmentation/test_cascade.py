"""Damaging the previous stage's prediction."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import label
from scipy.stats import binomtest, chisquare, kstest, uniform

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.training.augmentation.cascade import corrupt_previous, morph_label
from stu_pipeline.training.augmentation.cascade_draws import OPERATORS, CascadeDraws, Morphing, draw_cascade
from stu_pipeline.training.augmentation.components import find_component, remove_components
from stu_pipeline.training.augmentation.morphology import (
    apply_operator,
    build_ball,
    dilate_by_rows,
    dilate_by_transform,
)
from stu_pipeline.training.augmentation.settings import AugmentationSettings
from stu_pipeline.training.sampling.sample import SampleKey
from tests.device_waits import RefuseWaiting

KEY = SampleKey(seed=5, phase="train", step=0, slot=0)
NUM_LABELS = 3
NUM_KEYS = 3000
DILATIONS = [dilate_by_rows, dilate_by_transform]


def make_settings(patch, num_labels=NUM_LABELS):
    return AugmentationSettings(
        patch=patch,
        initial_patch=patch,
        rotation_rad=(0.0, 0.0),
        is_dummy_2d=False,
        mirroring=Mirroring(axes=()),
        previous_labels=tuple(range(1, num_labels + 1)),
    )


def make_one_hot(number, shape, num_labels=NUM_LABELS, seed=0):
    """Make blobs of labels that do not overlap, 0 being background."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, num_labels + 1, (number, *(-(-size // 4) for size in shape)))
    for axis, size in enumerate(shape, 1):
        coarse = coarse.repeat(4, axis).take(range(size), axis)
    return torch.from_numpy(np.stack([coarse == i for i in range(1, num_labels + 1)], 1)).float()


@pytest.fixture(scope="module")
def draws():
    return [draw_cascade(replace(KEY, step=step), num_labels=NUM_LABELS) for step in range(NUM_KEYS)]


def test_the_same_key_draws_the_same_and_another_key_does_not(draws):
    again = [draw_cascade(replace(KEY, step=step), num_labels=NUM_LABELS) for step in range(30)]
    other = [draw_cascade(replace(KEY, step=step, slot=1), num_labels=NUM_LABELS) for step in range(30)]
    assert again == draws[:30]
    assert other != draws[:30]


@pytest.mark.parametrize(("name", "probability"), [("morphings", 0.4), ("removals", 0.2)])
def test_each_half_fires_as_often_as_in_nnunet_and_takes_every_other_label(draws, name, probability):
    channels = [[entry.channel for entry in getattr(drawn, name)] for drawn in draws]
    num_fired = sum(map(bool, channels))
    assert binomtest(num_fired, NUM_KEYS, probability * (1 - 0.5**NUM_LABELS)).pvalue > 1e-3
    assert binomtest(sum(map(len, channels)), NUM_KEYS * NUM_LABELS, probability / 2).pvalue > 1e-3
    assert all(len(set(taken)) == len(taken) for taken in channels)


@pytest.mark.parametrize("name", ["morphings", "removals"])
def test_labels_come_in_any_order(draws, name):
    orders = [tuple(entry.channel for entry in getattr(drawn, name)) for drawn in draws]
    full = [order for order in orders if len(order) == NUM_LABELS]
    counts = [full.count(order) for order in itertools.permutations(range(NUM_LABELS))]
    assert chisquare(counts).pvalue > 1e-3


def test_operators_are_equally_frequent_and_radii_uniform(draws):
    morphings = [morphing for drawn in draws for morphing in drawn.morphings]
    operators = [morphing.operator for morphing in morphings]
    assert chisquare([operators.count(name) for name in OPERATORS]).pvalue > 1e-3
    assert kstest([morphing.radius for morphing in morphings], uniform(1, 7).cdf).pvalue > 1e-3


def test_the_choice_of_a_component_is_uniform(draws):
    choices = [removal.choice for drawn in draws for removal in drawn.removals]
    assert kstest(choices, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("shape", [(20, 24), (12, 14, 16)])
def test_a_sample_comes_out_the_same_alone_and_in_any_batch(shape):
    keys, settings = [replace(KEY, slot=slot) for slot in range(12)], make_settings(shape)
    one_hot = make_one_hot(len(keys), shape)
    before = one_hot.clone()
    together = corrupt_previous(one_hot, keys, settings)
    alone = [corrupt_previous(before[i : i + 1].clone(), keys[i : i + 1], settings) for i in range(len(keys))]
    assert together is one_hot
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(together, before)
    assert set(together.unique().tolist()) <= {0.0, 1.0}
    assert together.sum(1).max() == 1


def test_a_sample_that_drew_nothing_is_not_touched():
    keys = [replace(KEY, step=step) for step in range(60)]
    keys = [key for key in keys if draw_cascade(key, num_labels=NUM_LABELS) == CascadeDraws()]
    one_hot = make_one_hot(len(keys), (8, 8, 8))
    version = one_hot._version
    corrupt_previous(one_hot, keys, make_settings((8, 8, 8)))
    assert len(keys) > 10
    assert one_hot._version == version


def test_an_empty_previous_prediction_stays_empty_and_an_empty_batch_too():
    keys = [replace(KEY, slot=slot) for slot in range(12)]
    assert corrupt_previous(torch.zeros(12, NUM_LABELS, 6, 6, 6), keys, make_settings((6, 6, 6))).sum() == 0
    assert len(corrupt_previous(torch.zeros(0, NUM_LABELS, 6, 6), [], make_settings((6, 6)))) == 0


def test_another_number_of_labels_or_keys_is_refused():
    with pytest.raises(ValueError, match="expected 3 channels of previous labels, got 2"):
        corrupt_previous(torch.zeros(1, 2, 4, 4), [KEY], make_settings((4, 4)))
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        corrupt_previous(torch.zeros(2, NUM_LABELS, 4, 4), [KEY], make_settings((4, 4)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bool, torch.bfloat16])
def test_any_type_of_one_hot_works(dtype):
    keys = [replace(KEY, slot=slot) for slot in range(4)]
    expected = corrupt_previous(make_one_hot(4, (8, 8, 8)), keys, make_settings((8, 8, 8)))
    found = corrupt_previous(make_one_hot(4, (8, 8, 8)).to(dtype), keys, make_settings((8, 8, 8)))
    assert found.dtype == dtype
    assert torch.equal(found.float(), expected)


def test_what_a_label_gains_the_others_lose():
    one_hot = torch.zeros(2, 9, 9, 9)
    one_hot[0, 4, 4, 4] = 1
    one_hot[1, 4, 4, 5:] = 1
    morph_label(one_hot, Morphing(channel=0, operator="dilate", radius=2.0))
    assert one_hot[0].sum() == 33
    assert one_hot[1, 4, 4].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1]


def test_what_a_label_loses_no_other_label_gains():
    one_hot = make_one_hot(1, (8, 8, 8))[0]
    others = one_hot[1:].clone()
    morph_label(one_hot, Morphing(channel=0, operator="erode", radius=2.0))
    assert torch.equal(one_hot[1:], others)


@pytest.mark.parametrize("dilate", DILATIONS)
@pytest.mark.parametrize("shape", [(7, 9), (5, 6, 7)])
@pytest.mark.parametrize("radius", [1.0, 1.3, 1.6, 2.4, 3.7])
def test_dilation_equals_its_definition(dilate, shape, radius):
    mask = np.random.default_rng(1).random(shape) < 0.03
    mask[(0,) * len(shape)] = mask[(-1,) * len(shape)] = True
    footprint = build_ball(radius, len(shape))
    expected = np.zeros(shape, bool)
    for place in np.argwhere(mask):
        for element in np.argwhere(footprint):
            target = place + (np.array(footprint.shape) - 1) // 2 - element
            if (target >= 0).all() and (target < shape).all():
                expected[tuple(target)] = True
    assert np.array_equal(dilate(torch.from_numpy(mask), footprint).numpy(), expected)


@pytest.mark.parametrize("radius", [1.0, 1.49, 1.5, 2.2, 3.9, 5.0, 6.5, 7.99])
@pytest.mark.parametrize("num_axes", [2, 3])
def test_both_ways_to_dilate_agree(radius, num_axes):
    shape = (20, 23, 21)[:num_axes]
    mask = torch.from_numpy(np.random.default_rng(2).random(shape) < 0.002)
    mask[(0,) * num_axes] = True
    footprint = build_ball(radius, num_axes)
    assert torch.equal(dilate_by_rows(mask, footprint), dilate_by_transform(mask, footprint))


@pytest.mark.parametrize("dilate", DILATIONS)
def test_a_full_mask_stays_full_and_an_empty_one_empty(dilate):
    full = torch.ones(6, 7, 8, dtype=torch.bool)
    footprint = build_ball(3.3, 3)
    assert dilate(full, footprint).all()
    assert not dilate(~full, footprint).any()


@pytest.mark.parametrize("operator", OPERATORS)
def test_beyond_the_border_nothing_eats_into_a_full_mask(operator):
    assert apply_operator(torch.ones(6, 7, 8, dtype=torch.bool), operator, build_ball(2.0, 3)).all()


@pytest.mark.parametrize("operator", OPERATORS)
def test_morphology_does_not_wait_for_the_device(operator):
    one_hot = make_one_hot(1, (8, 9, 10))[0]
    with RefuseWaiting():
        morph_label(one_hot, Morphing(channel=0, operator=operator, radius=2.7))
        dilate_by_transform(one_hot[0].bool(), build_ball(2.7, 3))


def test_one_component_is_removed_and_diagonal_neighbours_belong_to_it():
    volume = torch.zeros(10, 10, 10)
    volume[1, 1, 1] = volume[2, 2, 2] = 1
    volume[7, 7, 7] = volume[7, 7, 8] = 1
    first, second = volume.clone(), volume.clone()
    remove_components([first, second], [0.1, 0.9])
    assert first.nonzero().tolist() == [[7, 7, 7], [7, 7, 8]]
    assert second.nonzero().tolist() == [[1, 1, 1], [2, 2, 2]]


def test_every_component_can_go_and_none_more_often():
    mask = np.zeros((12, 12), bool)
    mask[::3, ::3] = True
    num_components = label(mask, np.ones((3, 3)))[1]
    removed = []
    for choice in (np.arange(3 * num_components) + 0.5) / (3 * num_components):
        box, component = find_component(mask, choice)
        removed.append(tuple(np.argwhere(component)[0] + [places.start for places in box]))
    assert len(set(removed)) == num_components
    assert all(removed.count(place) == 3 for place in removed)


def test_a_component_of_fifteen_percent_stays_and_one_voxel_less_goes():
    mask = np.zeros((10, 10), bool)
    mask.flat[:15] = True
    assert find_component(mask, 0.5) is None
    mask.flat[14] = False
    assert find_component(mask, 0.5) is not None


def test_no_volume_and_an_empty_volume_change_nothing():
    remove_components([], [])
    volume = torch.zeros(4, 4, 4)
    remove_components([volume], [0.5])
    assert volume._version == 0
