"""Tile positions, weights, padding and mirroring."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from stu_pipeline.prediction.tiles import (
    TileSettings,
    build_importance,
    find_tile_starts,
    list_mirrorings,
    list_tiles,
    pad_to_patch,
    predict_tiles,
)


class Echo(nn.Module):
    """Gives the image back as logits, in two copies with other signs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, -x], dim=1)


class Ramp(nn.Module):
    """Adds what depends on the place within the tile, along the last axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.arange(x.shape[-1], dtype=x.dtype)


@pytest.mark.parametrize("step", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("size", [16, 17, 31, 32, 100])
def test_tiles_cover_the_image_and_are_at_most_a_step_apart(size: int, step: float):
    (starts,) = find_tile_starts([size], [16], step)
    assert starts[0] == 0
    assert starts[-1] == size - 16
    assert all(0 < after - before <= math.ceil(16 * step) for before, after in itertools.pairwise(starts))


def test_a_flat_patch_slides_in_every_slice():
    tiles = list_tiles((3, 8, 12), (8, 8), 0.5)
    assert [tile[0] for tile in tiles] == [0, 0, 1, 1, 2, 2]
    assert tiles[1][1:] == (slice(0, 8), slice(4, 12))


def test_importance_peaks_in_the_centre_and_is_never_zero():
    importance = build_importance((32, 24, 16))
    assert importance.max() == importance[16, 12, 8] == 10
    assert importance.min() > 0


def test_importance_falls_by_the_gaussian_of_an_eighth_of_the_patch():
    importance = build_importance((64,))
    assert float(importance[32 + 8]) == pytest.approx(10 * math.exp(-0.5), rel=1e-3)


def test_padding_puts_the_image_in_the_middle_and_the_odd_voxel_behind():
    padded, inside = pad_to_patch(torch.ones(2, 3, 4, 9), (6, 4, 4))
    assert padded.shape == (2, 6, 4, 9)
    assert inside == (slice(1, 4), slice(0, 4), slice(0, 9))
    assert padded[(slice(None), *inside)].all()
    assert padded.sum() == 2 * 3 * 4 * 9


def test_padding_for_a_flat_patch_leaves_the_slices_alone():
    padded, inside = pad_to_patch(torch.ones(1, 2, 3, 3), (8, 8))
    assert padded.shape == (1, 2, 8, 8)
    assert inside[0] == slice(0, 2)


@pytest.mark.parametrize("shape", [(20, 16, 33), (5, 6, 7)])
@pytest.mark.parametrize("patch", [(16, 16, 16), (8, 8)])
@pytest.mark.parametrize("max_tiles", [1, 5])
def test_a_network_that_echoes_gives_the_image_back(shape, patch, max_tiles):
    image = torch.randn(1, *shape)
    settings = TileSettings(
        patch_voxels=patch, num_outputs=2, mirror_axes=tuple(range(len(patch))), max_tiles=max_tiles
    )
    logits = predict_tiles(Echo(), image, settings)
    assert logits.shape == (2, *shape)
    torch.testing.assert_close(logits, torch.cat([image, -image]))


def test_overlapping_tiles_are_averaged_by_importance():
    image = torch.zeros(1, 1, 1, 12)
    logits = predict_tiles(Ramp(), image, TileSettings(patch_voxels=(1, 1, 8), num_outputs=1))
    weights = build_importance((1, 1, 8))[0, 0]
    first, second = weights[6], weights[2]
    assert float(logits[0, 0, 0, 6]) == pytest.approx(float((first * 6 + second * 2) / (first + second)), rel=1e-5)


def test_mirrored_copies_are_turned_back_and_averaged():
    image = torch.zeros(1, 1, 1, 8)
    settings = TileSettings(patch_voxels=(1, 1, 8), num_outputs=1, mirror_axes=(2,))
    torch.testing.assert_close(predict_tiles(Ramp(), image, settings), torch.full((1, 1, 1, 8), 3.5))


def test_all_combinations_of_axes_are_mirrored():
    assert list_mirrorings(()) == [()]
    assert list_mirrorings((0, 1, 2)) == [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


def test_progress_counts_tiles():
    seen: list[tuple[int, int]] = []
    settings = TileSettings(patch_voxels=(4, 4, 4), num_outputs=2, max_tiles=2)
    predict_tiles(Echo(), torch.zeros(1, 4, 4, 8), settings, on_progress=lambda *counts: seen.append(counts))
    assert seen == [(2, 3), (3, 3)]


def test_bf16_is_used_when_asked_for():
    kinds: list[torch.dtype] = []

    class Watch(nn.Conv3d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output = super().forward(x)
            kinds.append(output.dtype)
            return output

    network = Watch(1, 1, 1)
    settings = TileSettings(patch_voxels=(4, 4, 4), num_outputs=1, autocast=torch.bfloat16)
    assert predict_tiles(network, torch.zeros(1, 4, 4, 4), settings).dtype == torch.float32
    assert kinds == [torch.bfloat16]
