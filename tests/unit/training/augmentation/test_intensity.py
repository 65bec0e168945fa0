"""The intensity transforms of a batch."""

from dataclasses import replace

import pytest
import torch

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.training.augmentation.blur import blur_volume, build_kernel
from stu_pipeline.training.augmentation.contrast import scale_contrast
from stu_pipeline.training.augmentation.gamma import apply_gamma
from stu_pipeline.training.augmentation.intensity import apply_intensity, transform_intensity
from stu_pipeline.training.augmentation.intensity_draws import IntensityDraws, draw_intensity
from stu_pipeline.training.augmentation.low_resolution import simulate_low_resolution
from stu_pipeline.training.augmentation.noise import add_noise, derive_noise_seed
from stu_pipeline.training.augmentation.settings import AugmentationSettings
from stu_pipeline.training.sampling.sample import SampleKey
from tests.device_waits import RefuseWaiting

KEY = SampleKey(seed=3, phase="train", step=0, slot=0)
EVERYTHING = IntensityDraws(
    noise_std=0.05,
    blur={0: (0.6, 0.7, 0.9), 1: (0.5, 0.99, 0.8)},
    brightness={0: 0.8, 1: 1.2},
    contrast={0: 1.2, 1: 0.8},
    low_resolution={0: 0.5, 1: 0.8},
    inverse_gamma={0: 0.75, 1: 1.4},
    gamma={0: 1.4, 1: 0.75},
)
NO_AXIS = Mirroring(axes=())


def make_settings(patch, is_dummy_2d=False):
    return AugmentationSettings(
        patch=patch, initial_patch=patch, rotation_rad=(-0.5, 0.5), is_dummy_2d=is_dummy_2d, mirroring=NO_AXIS
    )


def make_data(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_keys(number, **changes):
    return [replace(KEY, slot=slot, **changes) for slot in range(number)]


def find_keys(number, fires):
    """Find keys whose draws do, or do not do, something."""
    keys = (replace(KEY, step=step) for step in range(10_000))
    found = (key for key in keys if fires(draw_intensity(key, num_channels=2, num_axes=3)))
    return [next(found) for _ in range(number)]


@pytest.mark.parametrize(
    ("patch", "is_dummy_2d"), [((11, 14), False), ((9, 10, 12), False), ((4, 20, 18), True), ((1, 16, 16), True)]
)
def test_a_sample_comes_out_the_same_alone_and_in_any_batch(patch, is_dummy_2d):
    settings, keys = make_settings(patch, is_dummy_2d), make_keys(24)
    data = make_data(len(keys), 2, *patch)
    together = apply_intensity(data.clone(), keys, settings)
    alone = [apply_intensity(data[i : i + 1].clone(), keys[i : i + 1], settings) for i in range(len(keys))]
    backwards = apply_intensity(data.flip(0), keys[::-1], settings).flip(0)
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together, backwards)
    assert torch.isfinite(together).all()
    assert not torch.equal(together, data)


def test_a_sample_that_drew_nothing_is_not_touched():
    keys = find_keys(4, lambda drawn: drawn == IntensityDraws())
    data = make_data(4, 2, 6, 6, 6)
    version = data._version
    assert apply_intensity(data, keys, make_settings((6, 6, 6))) is data
    assert data._version == version


def test_the_batch_is_worked_on_in_place():
    keys = find_keys(2, lambda drawn: drawn.gamma)
    data = make_data(2, 2, 6, 6, 6)
    before = data.clone()
    assert apply_intensity(data, keys, make_settings((6, 6, 6))) is data
    assert all(not torch.equal(after, image) for after, image in zip(data, before, strict=True))


def test_an_empty_batch_stays_empty():
    assert apply_intensity(torch.zeros(0, 1, 4, 4), [], make_settings((4, 4))).shape == (0, 1, 4, 4)


def test_a_key_too_few_is_refused():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        apply_intensity(torch.zeros(2, 1, 4, 4), make_keys(1), make_settings((4, 4)))


def test_a_constant_image_stays_finite_and_nearly_constant():
    image = torch.full((2, 8, 8, 8), 3.0)
    transform_intensity(image, replace(EVERYTHING, noise_std=None, brightness={}), key=KEY, is_dummy_2d=False)
    torch.testing.assert_close(image, torch.full((2, 8, 8, 8), 3.0))


def test_a_constant_image_with_noise_stays_finite():
    image = torch.zeros(2, 8, 8, 8)
    transform_intensity(image, EVERYTHING, key=KEY, is_dummy_2d=False)
    assert torch.isfinite(image).all()
    assert image.std() > 0


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_values_stay_finite_at_any_scale(scale):
    image = make_data(2, 8, 9, 10) * scale
    transform_intensity(image, EVERYTHING, key=KEY, is_dummy_2d=False)
    assert torch.isfinite(image).all()


def test_a_channel_that_drew_nothing_is_not_touched():
    image = make_data(2, 6, 7, 8)
    before = image.clone()
    draws = IntensityDraws(blur={1: (0.9, 0.9, 0.9)}, low_resolution={1: 0.6})
    transform_intensity(image, draws, key=KEY, is_dummy_2d=False)
    assert torch.equal(image[0], before[0])
    assert not torch.equal(image[1], before[1])


def test_nothing_waits_for_the_device():
    image = make_data(2, 8, 9, 10)
    with RefuseWaiting():
        transform_intensity(image, EVERYTHING, key=KEY, is_dummy_2d=False)


def test_what_refuses_waiting_notices_a_value_read_on_the_host():
    with RefuseWaiting(), pytest.raises(RuntimeError, match="waits for the device"):
        make_data(2).sum().item()
    with RefuseWaiting(), pytest.raises(RuntimeError, match="waits for the device"):
        make_data(2)[torch.tensor([True, False])]


def test_noise_is_that_of_the_key_and_has_the_deviation_it_was_given():
    first, again, other = (torch.zeros(2, 20, 20, 20) for _ in range(3))
    add_noise(first, std=0.07, key=KEY)
    add_noise(again, std=0.07, key=KEY)
    add_noise(other, std=0.07, key=replace(KEY, slot=1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    assert first.std().item() == pytest.approx(0.07, rel=0.03)
    assert abs(first.mean().item()) < 0.003


def test_noise_leaves_the_global_random_state_alone():
    state = torch.random.get_rng_state()
    add_noise(torch.zeros(1, 4, 4), std=0.1, key=KEY)
    assert torch.equal(state, torch.random.get_rng_state())


def test_noise_seeds_are_64_bits_and_all_different():
    seeds = {derive_noise_seed(replace(KEY, step=step, slot=slot)) for step in range(50) for slot in range(4)}
    assert len(seeds) == 200
    assert 2**60 < max(seeds) < 2**64


@pytest.mark.parametrize(("sigma", "size"), [(0.5, 3), (0.58, 3), (0.59, 5), (0.91, 5), (0.92, 7), (1.0, 7)])
def test_the_blur_kernel_is_odd_symmetric_and_sums_to_one(sigma, size):
    kernel = build_kernel(sigma)
    assert len(kernel) == size
    assert kernel == kernel[::-1]
    assert sum(kernel) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(1, 9, 9), (2, 9, 9), (3, 3, 9), (1, 1)])
def test_axes_shorter_than_the_kernel_are_blurred(shape):
    volume = make_data(*shape)
    lowest, highest = volume.min(), volume.max()
    blur_volume(volume, (1.0,) * len(shape))
    assert (volume >= lowest - 1e-6).all()
    assert (volume <= highest + 1e-6).all()


def test_contrast_keeps_the_range():
    volume = make_data(8, 8, 8)
    lowest, highest = volume.min(), volume.max()
    scale_contrast(volume, 1.25)
    assert volume.min() == lowest
    assert volume.max() == highest


@pytest.mark.parametrize("is_inverted", [False, True])
def test_gamma_keeps_mean_and_deviation(is_inverted):
    volume = make_data(8, 9, 10) + 5
    mean, std = volume.mean(), volume.std()
    before = volume.clone()
    apply_gamma(volume, 1.4, is_inverted=is_inverted)
    torch.testing.assert_close((volume.mean(), volume.std()), (mean, std))
    assert not torch.allclose(volume, before, atol=1e-2)


def test_low_resolution_in_dummy_2d_keeps_slices_apart():
    volume = torch.zeros(5, 8, 8)
    volume[2] = make_data(8, 8)
    before = volume.clone()
    simulate_low_resolution(volume, 0.5, kept_axes=(0,))
    assert not torch.equal(volume[2], before[2])
    assert all(torch.equal(volume[z], before[z]) for z in (0, 1, 3, 4))


def test_low_resolution_keeps_at_least_one_voxel_per_axis():
    volume = make_data(1, 6, 6)
    simulate_low_resolution(volume, 0.5)
    assert torch.isfinite(volume).all()
