"""nnU-Net's intensity transforms, on the device the images are on.

Numbers that decide anything are drawn on the host and reach the device as arguments of a kernel; statistics of an image
never leave it. So nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from stu_pipeline.training.augmentation.blur import blur_volume
from stu_pipeline.training.augmentation.brightness import scale_brightness
from stu_pipeline.training.augmentation.contrast import scale_contrast
from stu_pipeline.training.augmentation.gamma import apply_gamma
from stu_pipeline.training.augmentation.intensity_draws import IntensityDraws, draw_intensity
from stu_pipeline.training.augmentation.low_resolution import simulate_low_resolution
from stu_pipeline.training.augmentation.noise import add_noise
from stu_pipeline.training.augmentation.settings import AugmentationSettings
from stu_pipeline.training.sampling.sample import SampleKey


def apply_intensity(data: Tensor, keys: Sequence[SampleKey], settings: AugmentationSettings) -> Tensor:
    """Change the intensities of a batch in place and return it.

    Each sample is worked on by itself: it comes out the same in any batch, and one that drew nothing is not touched.

    Args:
        data: `(batch, channel, *spatial)`, float32; an empty batch comes back as it is.
        keys: one per sample.
        settings: of the configuration.

    Raises:
        ValueError: there are more or fewer keys than samples.
    """
    for image, key in zip(data, keys, strict=True):
        draws = draw_intensity(key, num_channels=image.shape[0], num_axes=image.ndim - 1)
        transform_intensity(image, draws, key=key, is_dummy_2d=settings.is_dummy_2d)
    return data


def transform_intensity(image: Tensor, draws: IntensityDraws, *, key: SampleKey, is_dummy_2d: bool) -> None:
    """Apply what was drawn to one image `(channel, *spatial)` in place, in nnU-Net's order."""
    if draws.noise_std is not None:
        add_noise(image, std=draws.noise_std, key=key)
    for channel, sigmas in draws.blur.items():
        blur_volume(image[channel], sigmas)
    for channel, factor in draws.brightness.items():
        scale_brightness(image[channel], factor)
    for channel, factor in draws.contrast.items():
        scale_contrast(image[channel], factor)
    for channel, scale in draws.low_resolution.items():
        simulate_low_resolution(image[channel], scale, kept_axes=(0,) if is_dummy_2d else ())
    for channel, gamma in draws.inverse_gamma.items():
        apply_gamma(image[channel], gamma, is_inverted=True)
    for channel, gamma in draws.gamma.items():
        apply_gamma(image[channel], gamma, is_inverted=False)
