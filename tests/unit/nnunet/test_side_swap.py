"""Mirrored copies that exchange left and right, on a network that is symmetric by construction."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import nn

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.errors import ModelError
from stu_pipeline.inference.mirroring import list_mirrorings, mirror_tiles, turn_back
from stu_pipeline.inference.window import slide
from stu_pipeline.inference.window_settings import WindowNetwork, WindowSettings
from stu_pipeline.nnunet.side_swap import find_model_swap

LABELS = {"background": 0, "kidney_right": 1, "liver": 2, "kidney_left": 3}
SWAPPING = Mirroring(axes=(0, 1, 2), swapping_axes=(2,), pairs=((1, 3),))


class TwoSides(nn.Module):
    """Calls what is bright right on one side of the tile and left on the other; symmetric, hence always right.

    With a previous stage (three more channels) it also believes what that said, left, right and liver.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-1]
        side = torch.arange(size, dtype=x.dtype) - (size - 1) / 2
        image = x[:, :1]
        right, left, liver = image * side.clamp(min=0), image * (-side).clamp(min=0), 0.3 * image
        if x.shape[1] > 1:
            right, liver, left = right + 2 * x[:, 1:2], liver + 3 * x[:, 2:3], left + 4 * x[:, 3:4] - 2 * x[:, 3:4]
        return torch.cat([0.1 * image, right, liver, left], dim=1)


class TwoSideRegions(nn.Module):
    """As `TwoSides`, for the regions both, right and left."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        labels = TwoSides()(x)
        return torch.cat([labels[:, 1:2] + labels[:, 3:4], labels[:, 1:2], labels[:, 3:4]], dim=1)


def describe(labels, order=None):
    return LabelManager(labels, order)


def find(mirroring, labels=LABELS, order=None, *, cascade=False):
    return find_model_swap(mirroring, describe(labels, order), num_image_channels=1, has_previous_stage=cascade)


def run_mirrored(network, x, axes, swap):
    return turn_back(network(mirror_tiles(x, axes, swap)), axes, swap)


def predict_tiles(image, patch, axes=(), swap=None):
    """Logits of the whole image."""
    network = WindowNetwork(run=TwoSides(), mirrorings=tuple(list_mirrorings(axes)), side_swap=swap)
    settings = WindowSettings(patch_voxels=patch, num_outputs=4)
    return torch.cat([slab.scores.clone() for slab in slide([network], image, settings)], dim=1)


CASES = {
    "labels": (TwoSides(), 1, LABELS, None, False),
    "cascade": (TwoSides(), 4, LABELS, None, True),
    "regions": (TwoSideRegions(), 1, {"background": 0, "both": [1, 2, 3], "right": 1, "left": 3}, (2, 1, 3), False),
    "ignore label": (TwoSides(), 1, {**LABELS, "ignore": 4}, None, False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_symmetric_network_says_the_same_of_every_mirrored_copy(name: str):
    network, num_channels, labels, order, cascade = CASES[name]
    swap = find(SWAPPING, labels, order, cascade=cascade)
    x = torch.rand(1, num_channels, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = network(x)
    for axes in [axes for count in range(1, 4) for axes in combinations(range(3), count)]:
        torch.testing.assert_close(run_mirrored(network, x, axes, swap), expected)
        if 2 in axes:
            assert not torch.allclose(run_mirrored(network, x, axes, None), expected, atol=0.1)


def test_an_input_without_a_previous_stage_keeps_its_channels():
    swap = find(SWAPPING)
    assert swap is not None and swap.inputs == (0,) and swap.outputs == (0, 3, 2, 1)


def test_two_swapping_axes_cancel_each_other():
    both = Mirroring(axes=(1, 2), swapping_axes=(1, 2), pairs=((1, 3),))
    x = torch.rand(1, 1, 4, 4, 6)
    torch.testing.assert_close(
        run_mirrored(TwoSides(), x, (1, 2), find(both)), run_mirrored(TwoSides(), x, (1, 2), None)
    )


def test_a_mirroring_of_other_labels_is_refused():
    with pytest.raises(ModelError, match="has no partner"):
        find(SWAPPING, {"background": 0, "kidney_left": 1})
    with pytest.raises(ModelError, match="has no partner"):
        find(SWAPPING, {"background": 0, "both": [1, 2], "liver": 3}, (1, 2))


@pytest.mark.parametrize("num_channels", [1, 4])
def test_the_window_averages_all_copies_of_a_symmetric_network_to_what_one_says(num_channels: int):
    image = torch.rand(num_channels, 8, 10, 14, generator=torch.Generator().manual_seed(1))
    swap = find(SWAPPING, cascade=num_channels > 1)
    expected = predict_tiles(image, (8, 8, 8))
    torch.testing.assert_close(predict_tiles(image, (8, 8, 8), (0, 1, 2), swap), expected)
    assert not torch.allclose(predict_tiles(image, (8, 8, 8), (0, 1, 2)), expected, atol=0.3)


def test_flat_tiles_swap_too():
    image = torch.rand(1, 3, 10, 14, generator=torch.Generator().manual_seed(1))
    swap = find(Mirroring(axes=(0, 1), swapping_axes=(1,), pairs=((1, 3),)))
    torch.testing.assert_close(predict_tiles(image, (8, 8), (0, 1), swap), predict_tiles(image, (8, 8)))


def test_the_file_of_a_refused_mirroring_is_named():
    with pytest.raises(ModelError) as caught:
        find_model_swap(
            SWAPPING,
            describe({"background": 0, "kidney_left": 1}),
            num_image_channels=1,
            has_previous_stage=False,
            where=Path("checkpoint_final.pth"),
        )
    assert caught.value.where == Path("checkpoint_final.pth")
