"""The damage to previous predictions against nnU-Net's own: the same draws, the same voxels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.nnunet import random_binary_operator as stock_operators
from batchgeneratorsv2.transforms.nnunet import remove_connected_components
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from scipy.stats import chi2_contingency, ks_2samp
from skimage.measure import label

from stu_pipeline.training.augmentation.cascade import morph_label
from stu_pipeline.training.augmentation.cascade_draws import OPERATORS, Morphing, draw_cascade
from stu_pipeline.training.augmentation.components import remove_components
from stu_pipeline.training.augmentation.morphology import build_ball, dilate_by_rows, dilate_by_transform
from stu_pipeline.training.sampling.sample import SampleKey

KEY = SampleKey(seed=13, phase="train", step=0, slot=0)
LABELS = (1, 2, 3)
NUM_DRAWS = 1500
STOCK_OPERATORS = {
    "dilate": stock_operators.binary_dilation_torch,
    "erode": stock_operators.binary_erosion_torch,
    "close": stock_operators.binary_closing_torch,
    "open": stock_operators.binary_opening_torch,
}
SHAPES = [(21, 26), (15, 18, 20), (1, 16, 17)]


def make_one_hot(shape, block=4, seed=0):
    """Make blobs of the labels that do not overlap and touch each other and the border."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, len(LABELS) + 1, [-(-size // block) for size in shape])
    for axis, size in enumerate(shape):
        coarse = coarse.repeat(block, axis).take(range(size), axis)
    return torch.from_numpy(np.stack([coarse == i for i in LABELS])).float()


def open_stock_transforms():
    """Return nnU-Net's two cascade transforms with their probabilities."""
    pipeline = nnUNetTrainer.get_training_transforms(
        (8, 8, 8), (-0.5, 0.5), None, None, False, is_cascaded=True, foreground_labels=LABELS
    )
    return pipeline.transforms[-2:]


def test_nnunet_still_damages_with_these_settings():
    morphology, removal = open_stock_transforms()
    assert (morphology.apply_probability, removal.apply_probability) == (0.4, 0.2)
    assert vars(morphology.transform) == {
        "channel_idx": [-3, -2, -1],
        "any_of_these": tuple(STOCK_OPERATORS[name] for name in ("dilate", "erode", "close", "open")),
        "strel_size": (1, 8),
        "p_per_label": 0.5,
    }
    assert vars(removal.transform) == {
        "channel_idx": [-3, -2, -1],
        "fill_with_other_class_p": 0,
        "dont_do_if_covers_more_than_x_percent": 0.15,
        "p_per_label": 0.5,
    }


@pytest.mark.parametrize("dilate", [dilate_by_rows, dilate_by_transform])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [1.0, 1.49, 1.5, 2.7, 3.6, 5.2, 7.99])
def test_dilation_equals_nnunets_for_balls_of_odd_and_even_sides(dilate, shape, radius):
    mask = torch.from_numpy(np.random.default_rng(3).random(shape) < 0.004)
    mask[(0,) * len(shape)] = mask[(-1,) * len(shape)] = True
    footprint = build_ball(radius, len(shape))
    expected = stock_operators.binary_dilation_torch(mask, torch.from_numpy(footprint))
    assert torch.equal(dilate(mask, footprint), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("radius", [1.0, 1.7, 2.3, 4.6])
def test_an_operator_and_its_side_effects_equal_nnunets(shape, operator, radius):
    one_hot = make_one_hot(shape)
    transform = open_stock_transforms()[0].transform
    # Two in a row: the second label is worked on after the first has taken some of it.
    parameters = {"apply_to_channels": [-2, -3], "operators": [STOCK_OPERATORS[operator]] * 2}
    expected = transform._apply_to_image(one_hot.clone(), **parameters, strel_size=[radius] * 2)
    found = one_hot.clone()
    for channel in (1, 0):
        morph_label(found, Morphing(channel=channel, operator=operator, radius=radius))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("place", [0, 1, -1])
def test_removing_a_component_equals_nnunets(shape, place, monkeypatch):
    one_hot = make_one_hot(shape, block=2)
    sizes = [np.bincount(label(mask.numpy() > 0).ravel())[1:] for mask in one_hot]
    num_small = [int((size < 0.15 * one_hot[0].numel()).sum()) for size in sizes]
    monkeypatch.setattr(remove_connected_components.np.random, "choice", lambda ids: ids[place % len(ids)])
    transform = open_stock_transforms()[1].transform
    expected = transform._apply_to_image(one_hot.clone(), apply_to_channels=[-1, -3])
    found = one_hot.clone()
    choices = [((place % num_small[channel]) + 0.5) / num_small[channel] for channel in (2, 0)]
    remove_components([found[2], found[0]], choices)
    assert min(len(size) for size in sizes) > 1
    assert torch.equal(found, expected)
    assert not torch.equal(found, one_hot)


def test_a_large_component_stays_as_in_nnunet():
    one_hot = torch.zeros(3, 10, 10, 10)
    one_hot[0, :, :, :1] = 1
    one_hot[1, :2, :, 5:] = 1
    one_hot[2, 5:, :6, 4:9] = 1  # 15 %
    found, expected = one_hot.clone(), one_hot.clone()
    expected = open_stock_transforms()[1].transform._apply_to_image(expected, apply_to_channels=[-3, -2, -1])
    remove_components(list(found), [0.5] * 3)
    assert torch.equal(found, expected)
    assert found.sum((1, 2, 3)).tolist() == [0, 0, 150]


@pytest.fixture(scope="module")
def ours():
    return [draw_cascade(replace(KEY, step=step), num_labels=len(LABELS)) for step in range(NUM_DRAWS)]


@pytest.fixture(scope="module")
def stock():
    """Per transform and sample, what nnU-Net draws, or None."""
    image, state = torch.zeros(3, 4, 4, 4), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        np.random.seed(1)
        drawn = [
            [
                random.transform.get_parameters(image=image)
                if random.get_parameters(image=image)["apply_transform"]
                else None
                for _ in range(NUM_DRAWS)
            ]
            for random in open_stock_transforms()
        ]
    np.random.set_state(state)
    return drawn


@pytest.mark.parametrize(("which", "name"), [(0, "morphings"), (1, "removals")])
def test_labels_and_their_order_are_as_frequent_as_nnunets(ours, stock, which, name):
    mine = [tuple(entry.channel for entry in getattr(draws, name)) for draws in ours]
    theirs = [tuple(channel + 3 for channel in (drawn or {"apply_to_channels": ()})["apply_to_channels"])
              for drawn in stock[which]]  # fmt: skip
    kinds = sorted({*mine, *theirs})
    assert len(kinds) == 16
    assert chi2_contingency([[side.count(kind) for kind in kinds] for side in (mine, theirs)]).pvalue > 1e-3


def test_operators_and_radii_are_distributed_like_nnunets(ours, stock):
    morphings = [morphing for draws in ours for morphing in draws.morphings]
    fired = [drawn for drawn in stock[0] if drawn]
    operators = [operator for drawn in fired for operator in drawn["operators"]]
    table = [
        [sum(morphing.operator == name for morphing in morphings) for name in OPERATORS],
        [operators.count(STOCK_OPERATORS[name]) for name in OPERATORS],
    ]
    assert chi2_contingency(table).pvalue > 1e-3
    radii = [radius for drawn in fired for radius in drawn["strel_size"]]
    assert ks_2samp([morphing.radius for morphing in morphings], radii).pvalue > 1e-3
