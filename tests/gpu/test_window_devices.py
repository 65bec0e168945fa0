"""The sliding window on a GPU: what the CPU says, in batches that fit, and again when memory really runs out."""

import contextlib
import gc

import pytest
import torch
from torch import nn

from stu_pipeline.errors import MemoryLimitError
from stu_pipeline.inference.mirroring import list_mirrorings
from stu_pipeline.inference.window import slide
from stu_pipeline.inference.window_memory import WindowMemory
from stu_pipeline.inference.window_settings import CertaintySettings, WindowNetwork, WindowSettings
from stu_pipeline.inference.window_statistics import WindowStatistics
from tests.gpu.marks import DEVICE, pytestmark  # noqa: F401

CPU = torch.device("cpu")
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _full_float32():
    """Compare with the CPU in float32, not in TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@contextlib.contextmanager
def memory_limited_to(num_bytes):
    """Let PyTorch take no more than so much of the GPU."""
    _, total = torch.cuda.mem_get_info(DEVICE)
    clear()
    torch.cuda.set_per_process_memory_fraction(num_bytes / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        clear()


def clear():
    gc.collect()
    torch.cuda.empty_cache()


def build_convolutions(num_axes=3, *, features=8, outputs=3, seed=0):
    torch.manual_seed(seed)
    kind = nn.Conv3d if num_axes == 3 else nn.Conv2d
    layers = [kind(1, features, 3, padding=1), nn.ReLU(), kind(features, outputs, 3, padding=1)]
    return nn.Sequential(*layers).eval().requires_grad_(False)


def slide_all(modules, image, settings, *, axes=(0, 2), **options):
    """Run a window on its device and return all logits on the CPU."""
    networks = [WindowNetwork(run=module, mirrorings=tuple(list_mirrorings(axes))) for module in modules]
    slabs = slide(networks, image, settings, **options)
    return torch.cat([slab.scores.to("cpu", copy=True) for slab in slabs], 1 + settings.axis)


def make_image(*shape):
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("patch", "shape"), [((16, 24, 16), (37, 41, 29)), ((16, 24), (5, 41, 29))])
@pytest.mark.parametrize("results_device", [CPU, DEVICE])
def test_the_gpu_says_what_the_cpu_says(axis, patch, shape, results_device):
    axes = tuple(range(len(patch)))
    modules = [build_convolutions(len(patch), seed=seed) for seed in range(2)]
    image = make_image(*shape)
    settings = {"patch_voxels": patch, "num_outputs": 3, "axis": axis}
    expected = slide_all(modules, image, WindowSettings(**settings), axes=axes)
    on_gpu = WindowSettings(**settings, device=DEVICE, results_device=results_device)
    found = slide_all([module.to(DEVICE) for module in modules], image, on_gpu, axes=axes)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_slabs_lie_where_results_lie():
    settings = WindowSettings(patch_voxels=(16, 16, 16), num_outputs=3, device=DEVICE, results_device=DEVICE)
    network = WindowNetwork(run=build_convolutions().to(DEVICE))
    assert {slab.scores.device.type for slab in slide([network], make_image(40, 16, 16), settings)} == {"cuda"}


def test_the_first_copy_shows_how_many_fit():
    module = build_convolutions(features=32).to(DEVICE)
    memory = WindowMemory()
    settings = WindowSettings(patch_voxels=(64, 64, 64), num_outputs=3, device=DEVICE, results_device=DEVICE)
    slide_all([module], make_image(64, 64, 160), settings, memory=memory)
    assert memory.batch is not None
    assert memory.batch > 1
    assert memory.batch * 64**3 <= 1 << 25


def test_the_rule_for_sure_tiles_says_the_same_on_both_devices():
    counts = []
    rule = CertaintySettings(margin=0.05, share=0.1, audit_share=0.5)
    for device in (CPU, DEVICE):
        settings = WindowSettings(
            patch_voxels=(16, 16, 16), num_outputs=3, tta="auto", certainty=rule, device=device, results_device=device
        )
        statistics = WindowStatistics()
        slide_all([build_convolutions().to(device)], make_image(60, 40, 40), settings, statistics=statistics)
        counts.append((statistics.tiles, statistics.tiles_skipped, statistics.tiles_audited))
    # A voxel on the edge of the margin may fall on either side.
    assert counts[0] == pytest.approx(counts[1], abs=2)


def test_a_gpu_that_is_really_full_gives_the_same_logits_with_less_at_once():
    patch, image = (64, 64, 64), make_image(96, 96, 160)
    module = build_convolutions(features=32, outputs=20).to(DEVICE)
    settings = WindowSettings(
        patch_voxels=patch, num_outputs=20, axis=2, device=DEVICE, results_device=DEVICE, max_tiles=16
    )
    expected = slide_all([module], image, settings)
    notes, memory = [], WindowMemory()
    # The ring takes 50 MiB, one pass of 16 copies 16 * 64**3 * 4 B * (32 + 20 + ...), above 900 MiB.
    with memory_limited_to(400 * MIB):
        found = slide_all([module], image, settings, notes=notes, memory=memory)
    assert notes
    assert memory.batch is not None
    assert memory.batch < 16
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_logits_move_to_ram_when_one_copy_does_not_fit_beside_them():
    patch, image = (64, 64, 64), make_image(64, 256, 256)
    module = build_convolutions(features=16, outputs=40).to(DEVICE)
    settings = WindowSettings(
        patch_voxels=patch, num_outputs=40, axis=0, device=DEVICE, results_device=DEVICE, max_tiles=1
    )
    expected = slide_all([module], image, settings, axes=())
    notes, memory = [], WindowMemory()
    # The ring takes 640 MiB, a tile of 40 outputs 40 MiB and as much for its sum.
    with memory_limited_to(720 * MIB):
        found = slide_all([module], image, settings, axes=(), notes=notes, memory=memory)
    assert memory.results_on_cpu
    assert any("added up in RAM" in note for note in notes)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_networks_wait_in_ram_when_they_do_not_fit_together():
    def build(seed):
        torch.manual_seed(seed)
        wide = [nn.Conv3d(1, 2048, 1), nn.Conv3d(2048, 20_000, 1), nn.Conv3d(20_000, 2, 1)]
        return nn.Sequential(*wide).eval().requires_grad_(False)

    image = make_image(8, 8, 20)
    settings = WindowSettings(patch_voxels=(8, 8, 8), num_outputs=2, axis=2, device=DEVICE)
    modules = [build(seed).to(DEVICE) for seed in range(3)]
    expected = slide_all(modules, image, settings)
    for module in modules:
        module.to("cpu")
    notes, memory = [], WindowMemory()
    # A network has 156 MiB of weights, a pass of one copy 40 MiB of features.
    with memory_limited_to(420 * MIB):
        found = slide_all(modules, image, settings, notes=notes, memory=memory)
    assert memory.networks_on_cpu
    assert "the GPU was full: networks wait in RAM while another one runs" in notes
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_tile_that_never_fits_is_an_error_and_the_next_window_runs():
    module = build_convolutions(features=64).to(DEVICE)
    settings = WindowSettings(patch_voxels=(96, 96, 96), num_outputs=3, device=DEVICE, results_device=DEVICE)
    image = make_image(96, 96, 96)
    with memory_limited_to(100 * MIB), pytest.raises(MemoryLimitError, match="not enough memory"):
        slide_all([module], image, settings)
    assert slide_all([module], image, settings).isfinite().all()


def test_an_overflow_in_fp16_is_computed_again_in_float32():
    module = nn.Conv3d(1, 1, 1).to(DEVICE).requires_grad_(False)
    nn.init.constant_(module.weight, 1e5)
    settings = WindowSettings(patch_voxels=(8, 8, 8), num_outputs=1, device=DEVICE, results_device=DEVICE)
    notes = []
    networks = [WindowNetwork(run=module, autocast=torch.float16, name="fold 0")]
    slabs = slide(networks, make_image(8, 8, 8), settings, notes=notes)
    assert all(slab.scores.isfinite().all() for slab in slabs)
    assert notes == ["fold 0: 16-bit numbers overflowed on 1 of 1 tiles, computed again in float32"]
