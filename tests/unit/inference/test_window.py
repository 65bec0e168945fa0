"""The streaming window gives what the window over the whole volume gives."""

import pytest
import torch
from torch import nn

from stu_pipeline.datasets.laterality import SideSwap
from stu_pipeline.inference.ring import count_ring_bytes
from stu_pipeline.inference.tiles import build_importance, build_tile_grid
from stu_pipeline.inference.window import slide
from stu_pipeline.inference.window_memory import choose_cpu_batch, forecast_window_bytes
from stu_pipeline.inference.window_settings import WindowNetwork, WindowSettings
from tests.unit.inference.dense_window import predict_densely
from tests.unit.inference.window_networks import build_window_network, collect, make_image, slide_all

SIDES_3D = SideSwap(axes=(2,), inputs=(1, 0), outputs=(0, 2, 1))
SIDES_2D = SideSwap(axes=(1,), inputs=(1, 0), outputs=(0, 2, 1))


class Echo(nn.Module):
    """Gives the image back as logits, in two copies with other signs."""

    def forward(self, x):
        return torch.cat([x, -x], dim=1)


class Ramp(nn.Module):
    """Adds what depends on the place within the tile, along the last axis."""

    def forward(self, x):
        return x + torch.arange(x.shape[-1], dtype=x.dtype)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("patch", "shape"),
    [
        ((16, 12, 8), (31, 19, 13)),
        ((16, 12, 8), (16, 12, 8)),
        ((16, 12, 8), (7, 30, 5)),
        ((8, 12), (5, 23, 17)),
        ((8, 12), (3, 5, 40)),
    ],
    ids=["prime sizes", "one tile", "smaller than the patch", "flat patch", "flat patch larger than the slice"],
)
@pytest.mark.parametrize("max_tiles", [None, 3])
def test_slabs_together_are_the_dense_window(patch, shape, axis, max_tiles):
    num_axes = len(patch)
    swap = SIDES_3D if num_axes == 3 else SIDES_2D
    networks = [
        build_window_network(num_axes, mirror_axes=(0, num_axes - 1), seed=0, weight=3.0, side_swap=swap),
        build_window_network(num_axes, mirror_axes=(1,), seed=1),
    ]
    image = make_image(shape)
    settings = WindowSettings(patch_voxels=patch, num_outputs=3, axis=axis, max_tiles=max_tiles)
    found = slide_all(networks, image, settings)
    torch.testing.assert_close(found, predict_densely(networks, image, settings), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("step", [0.3, 0.7, 1.0])
def test_any_step_gives_the_dense_window(step):
    networks = [build_window_network(mirror_axes=(0, 1, 2))]
    image = make_image((13, 8, 17))
    settings = WindowSettings(patch_voxels=(8, 8, 8), num_outputs=3, step=step, axis=1)
    found = slide_all(networks, image, settings)
    torch.testing.assert_close(found, predict_densely(networks, image, settings), rtol=1e-5, atol=1e-5)


def test_a_network_that_echoes_gives_the_image_back():
    image = make_image((20, 16, 33), channels=1)
    settings = WindowSettings(patch_voxels=(16, 16, 16), num_outputs=2, axis=2)
    logits = slide_all([build_window_network(run=Echo(), mirror_axes=(0, 1, 2))], image, settings)
    torch.testing.assert_close(logits, torch.cat([image, -image]))


def test_overlapping_tiles_are_averaged_by_importance():
    settings = WindowSettings(patch_voxels=(1, 1, 8), num_outputs=1, axis=2)
    logits = slide_all([WindowNetwork(run=Ramp())], torch.zeros(1, 1, 1, 12), settings)
    weights = build_importance((1, 1, 8))[0, 0]
    first, second = weights[6], weights[2]
    assert float(logits[0, 0, 0, 6]) == pytest.approx(float((first * 6 + second * 2) / (first + second)), rel=1e-5)


def test_mirrored_copies_are_turned_back_and_averaged():
    settings = WindowSettings(patch_voxels=(1, 1, 8), num_outputs=1)
    networks = [build_window_network(run=Ramp(), mirror_axes=(2,))]
    torch.testing.assert_close(slide_all(networks, torch.zeros(1, 1, 1, 8), settings), torch.full((1, 1, 1, 8), 3.5))


def test_without_augmentation_only_the_plain_copy_runs():
    image = make_image((9, 9, 9))
    network = build_window_network(mirror_axes=(0, 1, 2))
    plain = build_window_network()
    settings = WindowSettings(patch_voxels=(8, 8, 8), num_outputs=3, tta="none")
    found = slide_all([network], image, settings)
    torch.testing.assert_close(found, slide_all([plain], image, settings))


def test_each_tile_is_cut_once_and_passes_are_full():
    sizes = []

    def run(x):
        sizes.append(len(x))
        return x

    networks = [build_window_network(run=run, mirror_axes=(0, 1, 2)) for _ in range(2)]
    settings = WindowSettings(patch_voxels=(8, 8, 8), num_outputs=1, max_tiles=16)
    slide_all(networks, make_image((8, 8, 24), channels=1), settings)
    # Five tiles of eight copies, two tiles at a time.
    assert sizes == [16, 16, 16, 16, 8, 8]


def test_progress_counts_tiles():
    seen = []
    settings = WindowSettings(patch_voxels=(4, 4, 4), num_outputs=2, max_tiles=2)
    networks = [WindowNetwork(run=Echo())]
    slide_all(networks, torch.zeros(1, 4, 4, 8), settings, on_progress=lambda *counts: seen.append(counts))
    assert seen == [(2, 3), (3, 3)]


def test_bf16_is_used_when_asked_for_and_logits_are_float32():
    kinds = []

    class Watch(nn.Conv3d):
        def forward(self, x):
            output = super().forward(x)
            kinds.append(output.dtype)
            return output

    network = WindowNetwork(run=Watch(1, 1, 1), autocast=torch.bfloat16)
    settings = WindowSettings(patch_voxels=(4, 4, 4), num_outputs=1)
    slide_all([network], torch.zeros(1, 4, 4, 4), settings)
    assert kinds == [torch.bfloat16]


def test_nothing_runs_before_the_first_slab_is_asked_for():
    def run(x):
        raise AssertionError

    slide([WindowNetwork(run=run)], torch.zeros(1, 4, 4, 4), WindowSettings(patch_voxels=(4, 4, 4), num_outputs=1))


def test_no_gradients_or_modes_leak_to_the_consumer():
    network = build_window_network()
    settings = WindowSettings(patch_voxels=(8, 8, 8), num_outputs=3)
    for slab in slide([network], make_image((20, 8, 8)), settings):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert not slab.scores.requires_grad
        slab.scores.mul_(2)


def test_a_slab_is_at_most_as_thick_as_a_tile():
    settings = WindowSettings(patch_voxels=(8, 8, 8), num_outputs=3)
    slabs = slide([build_window_network()], make_image((61, 8, 8)), settings)
    assert max(slab.stop - slab.start for slab in slabs) <= 8


def test_the_forecast_is_the_rings_size_and_does_not_grow_with_the_length():
    network = build_window_network(mirror_axes=(0, 1, 2))
    settings = WindowSettings(patch_voxels=(16, 16, 16), num_outputs=7)
    short, long = (forecast_window_bytes(settings, (length, 30, 40), 2, [network]) for length in (50, 5000))
    assert short == long
    assert short.ring_bytes == 4 * 8 * 16 * 30 * 40 + 4 * 16**3
    assert short.ring_bytes == count_ring_bytes(build_tile_grid((50, 30, 40), (16, 16, 16), 0.5, 0), 7)
    # One tile, one sum, eight copies.
    one = forecast_window_bytes(settings, (50, 30, 40), 2, [network], batch=8)
    assert one.group_bytes == 4 * 16**3 * (2 + 7 + 8 * (2 + 14))


@pytest.mark.parametrize(("threads", "copies"), [(1, 5), (2, 5), (8, 23), (128, 256)])
def test_small_patches_share_a_pass_and_more_so_with_more_threads(threads, copies):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert choose_cpu_batch((40, 56, 40)) == copies
    finally:
        torch.set_num_threads(before)
    assert choose_cpu_batch((256, 256, 256)) == 1


def test_collecting_all_slabs_without_copying_is_not_the_image():
    """A slab holds until the next one: this is what the documentation warns of."""
    settings = WindowSettings(patch_voxels=(4, 4, 4), num_outputs=2)
    image = make_image((17, 4, 4), channels=1)
    slabs = list(slide([WindowNetwork(run=Echo())], image, settings))
    copied = collect(slide([WindowNetwork(run=Echo())], image, settings))
    assert not torch.allclose(torch.cat([slab.scores for slab in slabs], 1), copied)
