"""A full memory costs speed, never the result; a network that is not finite never becomes a label."""

import pytest
import torch
from torch import nn

from stu_pipeline.errors import MemoryLimitError, NonFiniteError, StoppedError
from stu_pipeline.inference.window import slide
from stu_pipeline.inference.window_memory import WindowMemory
from stu_pipeline.inference.window_settings import WindowNetwork, WindowSettings
from stu_pipeline.inference.window_statistics import WindowStatistics
from tests.unit.inference.window_networks import build_convolutions, build_window_network, make_image, slide_all

SETTINGS = WindowSettings(patch_voxels=(8, 8, 8), num_outputs=3, max_tiles=8)
IMAGE = make_image((19, 8, 13))


class Failing:
    """A network that raises at chosen calls, after it has used its input."""

    def __init__(self, error, is_failing, seed=0):
        self.network = build_convolutions(seed=seed)
        self.error, self.is_failing = error, is_failing
        self.sizes = []

    def __call__(self, x):
        self.sizes.append(len(x))
        output = self.network(x)
        if self.is_failing(len(self.sizes), x):
            raise self.error
        return output


def _slide(run, **options):
    networks = [build_window_network(run=run, mirror_axes=(0, 2)), build_window_network(seed=1)]
    return slide_all(networks, IMAGE, SETTINGS, **options)


@pytest.mark.parametrize("call", range(1, 9))
def test_a_full_memory_at_any_call_changes_nothing(call):
    undisturbed = _slide(build_convolutions())
    failing = Failing(torch.OutOfMemoryError("full"), lambda number, x: number == call)
    notes, statistics, memory = [], WindowStatistics(), WindowMemory()
    found = _slide(failing, notes=notes, statistics=statistics, memory=memory)
    # The last of the calls come only where batches have shrunk before.
    if len(failing.sizes) >= call:
        assert notes == ["memory was full: the batch is 4 from there on"]
        assert memory.batch == 4
        assert max(failing.sizes[call:]) <= 4
    torch.testing.assert_close(found, undisturbed, rtol=1e-5, atol=1e-5)
    assert statistics.passes_run == statistics.passes_full == statistics.tiles * 5


def test_the_batch_shrinks_until_it_fits_and_stays_small():
    failing = Failing(torch.OutOfMemoryError("full"), lambda number, x: len(x) > 2)
    memory = WindowMemory()
    undisturbed = _slide(build_convolutions())
    torch.testing.assert_close(_slide(failing, memory=memory), undisturbed, rtol=1e-5, atol=1e-5)
    assert failing.sizes[:3] == [8, 4, 2]
    assert memory.batch == 2
    failing.sizes.clear()
    _slide(failing, memory=memory)
    assert max(failing.sizes) == 2


def test_what_never_fits_is_a_memory_error_with_a_hint():
    failing = Failing(torch.OutOfMemoryError("full"), lambda number, x: True)
    with pytest.raises(MemoryLimitError, match="3 outputs of one tile of 8x8x8 voxels") as caught:
        _slide(failing)
    assert failing.sizes == [8, 4, 2, 1]
    assert caught.value.hint


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), MemoryError()]
)
def test_a_full_ram_is_a_memory_error(error):
    with pytest.raises(MemoryLimitError, match="not enough memory"):
        _slide(Failing(error, lambda number, x: True))


def test_other_errors_are_not_taken_for_a_full_memory():
    with pytest.raises(RuntimeError, match="shapes differ"):
        _slide(Failing(RuntimeError("shapes differ"), lambda number, x: True))


def test_logits_that_no_ram_holds_are_a_memory_error():
    image = torch.zeros(1, 1, 1, 1).expand(1, 8, 1 << 12, 1 << 12)
    settings = WindowSettings(patch_voxels=(8, 8, 8), num_outputs=1 << 26)
    with pytest.raises(MemoryLimitError):
        next(slide([WindowNetwork(run=nn.Identity())], image, settings))


class Overflowing(nn.Module):
    """Infinite in fp16 where the image has a large value, finite in float32."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(1, 1, 1)
        nn.init.constant_(self.layer.weight, 300.0)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x):
        return self.layer(x) / 300


def test_an_overflow_in_16_bits_is_computed_again_in_float32():
    image = torch.zeros(1, 4, 4, 16)
    image[..., 15] = 1000.0
    networks = [
        WindowNetwork(run=Overflowing(), autocast=torch.float16, name="fold 0"),
        WindowNetwork(run=nn.Identity(), name="fold 1"),
    ]
    notes = []
    settings = WindowSettings(patch_voxels=(4, 4, 4), num_outputs=1, axis=2, max_tiles=1)
    found = slide_all(networks, image, settings, notes=notes)
    torch.testing.assert_close(found, image, rtol=1e-3, atol=1e-3)
    assert notes == ["fold 0: 16-bit numbers overflowed on 1 of 7 tiles, computed again in float32"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_what_is_not_finite_in_float32_names_the_network(value, autocast):
    def run(x):
        output = x.clone()
        output[-1, 0, 1, 2, 3] = value
        return output

    networks = [WindowNetwork(run=nn.Identity()), WindowNetwork(run=run, autocast=autocast, name="fold 3 of 'model'")]
    settings = WindowSettings(patch_voxels=(4, 4, 4), num_outputs=1, max_tiles=3)
    with pytest.raises(NonFiniteError, match="fold 3 of 'model' computed numbers that are NaN or infinite"):
        slide_all(networks, torch.zeros(1, 4, 4, 8), settings)


def test_infinities_of_both_signs_do_not_cancel():
    def run(x):
        output = x.clone()
        output[0, 0, 0, 0, 0], output[0, 0, 0, 0, 1] = float("inf"), float("-inf")
        return output

    with pytest.raises(NonFiniteError):
        slide_all(
            [WindowNetwork(run=run)], torch.zeros(1, 4, 4, 4), WindowSettings(patch_voxels=(4, 4, 4), num_outputs=1)
        )


def test_a_stop_is_looked_for_before_every_pass():
    passes, looks = [], []

    def run(x):
        passes.append(len(x))
        return x

    def check_stop():
        looks.append(len(passes))
        if len(looks) == 4:
            raise StoppedError("stopped")

    settings = WindowSettings(patch_voxels=(4, 4, 4), num_outputs=1, max_tiles=1)
    with pytest.raises(StoppedError):
        slide_all([WindowNetwork(run=run)], torch.zeros(1, 4, 4, 40), settings, check_stop=check_stop)
    assert looks == [0, 1, 2, 3]
