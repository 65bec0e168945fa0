"""The intensity transforms against nnU-Net's own: the same list, the same draws, the same voxels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from scipy.stats import chi2_contingency, ks_2samp

from stu_pipeline.training.augmentation.blur import blur_volume
from stu_pipeline.training.augmentation.intensity import transform_intensity
from stu_pipeline.training.augmentation.intensity_draws import IntensityDraws, draw_intensity
from stu_pipeline.training.augmentation.noise import derive_noise_seed
from stu_pipeline.training.sampling.sample import SampleKey

KEY = SampleKey(seed=11, phase="train", step=0, slot=0)
NUM_STOCK_DRAWS, NUM_DRAWS = 1500, 3000
NAMES = ("noise", "blur", "brightness", "contrast", "low_resolution", "inverse_gamma", "gamma")
SHAPES = [((13, 17), False), ((10, 13, 17), False), ((5, 16, 13), True)]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def list_stock_transforms(patch, is_dummy_2d=False):
    """Return nnU-Net's seven intensity transforms with their probabilities, by our names, in its order."""
    pipeline = nnUNetTrainer.get_training_transforms(
        patch, (-0.5, 0.5), None, mirror_axes=None, do_dummy_2d_data_aug=is_dummy_2d
    )
    random = [transform for transform in pipeline.transforms if type(transform).__name__ == "RandomTransform"]
    return dict(zip(NAMES, random, strict=True))


def list_settings(transform):
    hidden = ("benchmark_use_fft", "upmodes")
    settings = {name: value for name, value in vars(transform).items() if name not in hidden}
    return {
        name: ("BGContrast", value.contrast_range) if isinstance(value, BGContrast) else value
        for name, value in settings.items()
    }


def make_image(shape, num_channels=2):
    return torch.from_numpy(np.random.default_rng(0).normal(1, 2, (num_channels, *shape))).float()


def apply_stock(transform, image, parameters):
    return transform.transform._apply_to_image(image.clone(), **parameters)


def apply_ours(image, is_dummy_2d=False, **draws):
    image = image.clone()
    transform_intensity(image, IntensityDraws(**draws), key=KEY, is_dummy_2d=is_dummy_2d)
    return image


def make_factors(values):
    return {"apply_to_channel": torch.arange(len(values)), "multipliers": torch.tensor(values)}


def make_gammas(values, is_inverted):
    everywhere = torch.ones(len(values), dtype=torch.bool)
    invert = everywhere if is_inverted else ~everywhere
    channels = torch.arange(len(values))
    return {
        "apply_to_channel": channels,
        "retain_stats": everywhere,
        "invert_image": invert,
        "gamma": torch.tensor(values),
    }


def test_nnunet_still_has_these_transforms_with_these_settings():
    listed = {
        name: (type(random.transform).__name__, random.apply_probability, list_settings(random.transform))
        for name, random in list_stock_transforms((8, 8, 8)).items()
    }
    gamma = {
        "gamma": ("BGContrast", (0.7, 1.5)),
        "synchronize_channels": False,
        "p_per_channel": 1,
        "p_retain_stats": 1,
    }
    quarter = ("BGContrast", (0.75, 1.25))
    noise = {"noise_variance": (0, 0.1), "p_per_channel": 1, "synchronize_channels": True}
    blur = {"blur_sigma": (0.5, 1.0), "synchronize_channels": False, "synchronize_axes": False, "p_per_channel": 0.5}
    brightness = {"multiplier_range": quarter, "synchronize_channels": False, "p_per_channel": 1}
    contrast = {"contrast_range": quarter, "preserve_range": True, "synchronize_channels": False, "p_per_channel": 1}
    low = {"scale": (0.5, 1), "synchronize_channels": False, "synchronize_axes": True, "p_per_channel": 0.5}
    assert listed == {
        "noise": ("GaussianNoiseTransform", 0.1, noise),
        "blur": ("GaussianBlurTransform", 0.2, {**blur, "benchmark": True, "benchmark_num_runs": 9}),
        "brightness": ("MultiplicativeBrightnessTransform", 0.15, brightness),
        "contrast": ("ContrastTransform", 0.15, contrast),
        "low_resolution": (
            "SimulateLowResolutionTransform",
            0.25,
            {**low, "ignore_axes": None, "allowed_channels": None},
        ),
        "inverse_gamma": ("GammaTransform", 0.1, {**gamma, "p_invert_image": 1}),
        "gamma": ("GammaTransform", 0.3, {**gamma, "p_invert_image": 0}),
    }
    assert list_stock_transforms((8, 8, 8), True)["low_resolution"].transform.ignore_axes == (0,)


@pytest.mark.parametrize(("shape", "is_dummy_2d"), SHAPES)
class TestVoxels:
    def test_noise_equals_nnunets_from_the_same_random_state(self, shape, is_dummy_2d):
        image = make_image(shape)
        channels = torch.arange(2)
        parameters = {"apply_mask": channels >= 0, "apply_idx": channels, "num_apply": 2, "sigmas": 0.063}
        with torch.random.fork_rng():
            torch.manual_seed(derive_noise_seed(KEY))
            expected = apply_stock(list_stock_transforms(shape, is_dummy_2d)["noise"], image, parameters)
        torch.testing.assert_close(apply_ours(image, is_dummy_2d, noise_std=0.063), expected, **CLOSE)

    @pytest.mark.parametrize("sigma", [0.5, 0.57, 0.6, 0.85, 0.95, 1.0])
    def test_blur_equals_nnunets(self, shape, is_dummy_2d, sigma):
        image = make_image(shape)
        sigmas = tuple(np.linspace(sigma, 0.75, len(shape)).tolist())
        transform = list_stock_transforms(shape, is_dummy_2d)["blur"]
        transform.transform.benchmark = False  # otherwise it takes a Fourier transform where that is faster
        expected = apply_stock(transform, image, {"apply_to_channel": np.array([False, True]), "sigmas": [sigmas]})
        torch.testing.assert_close(apply_ours(image, is_dummy_2d, blur={1: sigmas}), expected, **CLOSE)

    def test_brightness_equals_nnunets(self, shape, is_dummy_2d):
        image = make_image(shape)
        expected = apply_stock(list_stock_transforms(shape)["brightness"], image, make_factors([0.77, 1.21]))
        torch.testing.assert_close(apply_ours(image, is_dummy_2d, brightness={0: 0.77, 1: 1.21}), expected, **CLOSE)

    def test_contrast_equals_nnunets(self, shape, is_dummy_2d):
        image = make_image(shape)
        expected = apply_stock(list_stock_transforms(shape)["contrast"], image, make_factors([0.77, 1.21]))
        torch.testing.assert_close(apply_ours(image, is_dummy_2d, contrast={0: 0.77, 1: 1.21}), expected, **CLOSE)

    @pytest.mark.parametrize("scale", [0.5, 0.63, 0.81, 0.99])
    def test_low_resolution_equals_nnunets(self, shape, is_dummy_2d, scale):
        image = make_image(shape)
        scales = torch.full((1, len(shape)), scale)
        scales[:, 0] = 1 if is_dummy_2d else scale
        transform = list_stock_transforms(shape, is_dummy_2d)["low_resolution"]
        expected = apply_stock(transform, image, {"apply_to_channel": [1], "scales": scales})
        torch.testing.assert_close(apply_ours(image, is_dummy_2d, low_resolution={1: scale}), expected, **CLOSE)

    @pytest.mark.parametrize("name", ["inverse_gamma", "gamma"])
    @pytest.mark.parametrize("gammas", [[0.7, 1.5], [1.0, 0.99]])
    def test_gamma_equals_nnunets(self, shape, is_dummy_2d, name, gammas):
        image = make_image(shape)
        parameters = make_gammas(gammas, is_inverted=name == "inverse_gamma")
        expected = apply_stock(list_stock_transforms(shape)[name], image, parameters)
        found = apply_ours(image, is_dummy_2d, **{name: dict(enumerate(gammas))})
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    def test_all_in_a_row_equal_nnunets(self, shape, is_dummy_2d):
        image = expected = make_image(shape)
        sigmas = (0.8, 0.6, 0.97)[: len(shape)]
        scales = torch.full((1, len(shape)), 0.63)
        scales[:, 0] = 1 if is_dummy_2d else 0.63
        stock = list_stock_transforms(shape, is_dummy_2d)
        stock["blur"].transform.benchmark = False
        parameters = {
            "blur": {"apply_to_channel": np.array([True, False]), "sigmas": [sigmas]},
            "brightness": make_factors([0.8, 1.2]),
            "contrast": make_factors([1.2, 0.8]),
            "low_resolution": {"apply_to_channel": [0], "scales": scales},
            "inverse_gamma": make_gammas([0.75, 1.4], is_inverted=True),
            "gamma": make_gammas([1.3, 0.9], is_inverted=False),
        }
        for name, transform in stock.items():
            expected = apply_stock(transform, expected, parameters[name]) if name in parameters else expected
        found = apply_ours(
            image,
            is_dummy_2d,
            blur={0: sigmas},
            brightness={0: 0.8, 1: 1.2},
            contrast={0: 1.2, 1: 0.8},
            low_resolution={0: 0.63},
            inverse_gamma={0: 0.75, 1: 1.4},
            gamma={0: 1.3, 1: 0.9},
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, -3.0])
@pytest.mark.parametrize("name", ["inverse_gamma", "gamma"])
def test_gamma_of_a_constant_image_equals_nnunets(name, value):
    image = torch.full((1, 6, 6, 6), value)
    expected = apply_stock(list_stock_transforms((6, 6, 6))[name], image, make_gammas([1.4], name == "inverse_gamma"))
    torch.testing.assert_close(apply_ours(image, **{name: {0: 1.4}}), expected)


@pytest.mark.parametrize("name", ["inverse_gamma", "gamma"])
def test_gamma_of_an_image_of_tiny_values_equals_nnunets(name):
    image = make_image((6, 7, 8), 1) * 1e-5
    parameters = make_gammas([1.4], name == "inverse_gamma")
    expected = apply_stock(list_stock_transforms((6, 7, 8))[name], image, parameters)
    torch.testing.assert_close(apply_ours(image, **{name: {0: 1.4}}) * 1e5, expected * 1e5)


def test_blur_by_fourier_transform_is_the_same_blur():
    image = make_image((12, 12, 12), 1)
    transform = list_stock_transforms((12, 12, 12))["blur"]
    sigmas = (0.9, 0.7, 1.0)
    sizes = dict.fromkeys(range(1, 9), True)
    transform.transform.benchmark_use_fft = {12: sizes}
    expected = apply_stock(transform, image, {"apply_to_channel": np.array([True]), "sigmas": [sigmas]})
    blur_volume(image[0], sigmas)
    torch.testing.assert_close(image, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def ours():
    """Per name, what was drawn for each sample: a list of numbers, or None."""
    drawn = [draw_intensity(replace(KEY, step=i), num_channels=2, num_axes=3) for i in range(NUM_DRAWS)]
    found = {name: [list_numbers(getattr(draws, name)) for draws in drawn] for name in NAMES[1:]}
    return {**found, "noise": [None if draws.noise_std is None else [draws.noise_std] for draws in drawn]}


def list_numbers(mapping):
    values = [np.atleast_1d(value) for value in mapping.values()]
    return np.concatenate(values).tolist() if values else None


@pytest.fixture(scope="module")
def stock():
    image, state = torch.zeros(2, 4, 4, 4), np.random.get_state()
    parameter = {"noise": "sigmas", "blur": "sigmas", "low_resolution": "scales"}
    parameter |= {"inverse_gamma": "gamma", "gamma": "gamma"}
    found = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        np.random.seed(0)
        for name, random in list_stock_transforms((4, 4, 4)).items():
            samples = []
            for _ in range(NUM_STOCK_DRAWS):
                fires = random.get_parameters(image=image)["apply_transform"]
                values = random.transform.get_parameters(image=image)[parameter.get(name, "multipliers")]
                values = torch.as_tensor(values)[..., :1] if name == "low_resolution" else torch.as_tensor(values)
                samples.append(values.flatten().tolist() or None if fires else None)
            found[name] = samples
    np.random.set_state(state)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_transform_changes_as_many_channels_as_often_as_nnunets(ours, stock, name):
    counts = [[len(values or ()) for values in drawn[name]] for drawn in (ours, stock)]
    kinds = sorted({count for side in counts for count in side})
    table = [[side.count(kind) for kind in kinds] for side in counts]
    assert chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_distributed_like_nnunets(ours, stock, name):
    mine, theirs = ([value for values in side[name] for value in values or ()] for side in (ours, stock))
    assert ks_2samp(mine, theirs).pvalue > 1e-3


def test_the_statistics_notice_a_wrong_distribution(ours, stock):
    mine, theirs = ([value for values in side["gamma"] for value in values or ()] for side in (ours, stock))
    uniform = [0.7 + 0.8 * (value - 0.7) / 0.6 if value < 1 else value for value in mine]
    assert ks_2samp(uniform, theirs).pvalue < 1e-3
