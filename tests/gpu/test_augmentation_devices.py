"""The same samples come out of the augmentation alike, wherever it runs."""

import pytest
import torch

from stu_pipeline.training.augmentation.pipeline import Augmenter
from tests.gpu.marks import DEVICE, pytestmark  # noqa: F401
from tests.gpu.material import make_samples, make_settings

PATCH = (40, 48, 56)
# Positions are computed in float32: a voxel whose position lies between two samples may take the other one.
MAX_SHARE_OF_OTHERS = 1e-3


def augment(samples, settings, device, *, is_augmenting=True):
    batch = Augmenter(settings, device, is_augmenting=is_augmenting)(samples)
    return batch.data.cpu(), [target.cpu() for target in batch.targets]


@pytest.mark.parametrize(
    "changes",
    [{}, {"is_dummy_2d": True}, {"regions": ((1, 2), (2,))}, {"ignore_label": 2}],
    ids=["plain", "dummy 2d", "regions", "ignore"],
)
def test_samples_without_noise_are_the_same_on_both_devices(changes):
    settings = make_settings(PATCH, **changes)
    samples = make_samples(24, settings, has_noise=False)
    assert 3 < sum(sample.affine is not None for sample in samples) < 24
    data, targets = augment(samples, settings, DEVICE)
    expected, expected_targets = augment(samples, settings, torch.device("cpu"))
    far = (data - expected).abs() > 1e-3 + 1e-3 * expected.abs()
    assert float(far.float().mean()) < MAX_SHARE_OF_OTHERS
    for target, other in zip(targets, expected_targets, strict=True):
        assert target.shape == other.shape and target.dtype == other.dtype
        assert float((target != other).float().mean()) < MAX_SHARE_OF_OTHERS


def test_noise_is_of_the_same_strength_on_both_devices():
    settings = make_settings(PATCH)
    samples = make_samples(12, settings, has_noise=True)
    data, _ = augment(samples, settings, DEVICE)
    expected, _ = augment(samples, settings, torch.device("cpu"))
    for image, other in zip(data, expected, strict=True):
        assert float(image.std()) == pytest.approx(float(other.std()), rel=0.02)
        assert float(image.mean()) == pytest.approx(float(other.mean()), abs=0.01)


def test_a_sample_comes_out_the_same_twice():
    settings = make_settings(PATCH)
    samples = make_samples(8, settings)
    first, second = augment(samples, settings, DEVICE), augment(samples, settings, DEVICE)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(one, other) for one, other in zip(first[1], second[1], strict=True))


def test_validation_patches_arrive_as_they_are():
    settings = make_settings(PATCH)
    samples = [sample for sample in make_samples(30, settings) if sample.affine is None]
    data, targets = augment(samples, settings, DEVICE, is_augmenting=False)
    for place, sample in enumerate(samples):
        assert torch.equal(data[place], torch.from_numpy(sample.data))
        assert torch.equal(targets[0][place], torch.from_numpy(sample.labels))
