"""What the intensity transforms do to one sample: nnU-Net's probabilities and ranges. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stu_pipeline.training.sampling.sample import Purpose, SampleKey

P_NOISE = 0.1
NOISE_STD = (0.0, 0.1)
"""nnU-Net calls it a variance and uses it as the standard deviation."""
P_BLUR, P_BLUR_PER_CHANNEL = 0.2, 0.5
BLUR_SIGMA = (0.5, 1.0)
P_BRIGHTNESS = 0.15
BRIGHTNESS = (0.75, 1.25)
P_CONTRAST = 0.15
CONTRAST = (0.75, 1.25)
P_LOW_RESOLUTION, P_LOW_RESOLUTION_PER_CHANNEL = 0.25, 0.5
LOW_RESOLUTION = (0.5, 1.0)
P_INVERSE_GAMMA, P_GAMMA = 0.1, 0.3
GAMMA = (0.7, 1.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensityDraws:
    """What happens to each channel, in this order; a channel missing from a mapping is left alone."""

    noise_std: float | None = None
    """One for all channels; None adds no noise."""
    blur: dict[int, tuple[float, ...]] = field(default_factory=dict)
    """Channel to one sigma per spatial axis, in voxels."""
    brightness: dict[int, float] = field(default_factory=dict)
    contrast: dict[int, float] = field(default_factory=dict)
    low_resolution: dict[int, float] = field(default_factory=dict)
    """Channel to the share of the voxels that stays along an axis."""
    inverse_gamma: dict[int, float] = field(default_factory=dict)
    gamma: dict[int, float] = field(default_factory=dict)


def draw_intensity(key: SampleKey, *, num_channels: int, num_axes: int) -> IntensityDraws:
    """Draw what the intensity transforms do to one sample, a pure function of the key."""
    rng = key.open_generator(Purpose.INTENSITY)
    everywhere = tuple(range(num_channels))
    noise_std = float(rng.uniform(*NOISE_STD)) if rng.random() < P_NOISE else None
    blurred = _draw_channels(rng, num_channels, P_BLUR_PER_CHANNEL) if rng.random() < P_BLUR else ()
    blur = {channel: tuple(rng.uniform(*BLUR_SIGMA, size=num_axes).tolist()) for channel in blurred}
    brightness = _draw_factors(rng, BRIGHTNESS, everywhere if rng.random() < P_BRIGHTNESS else ())
    contrast = _draw_factors(rng, CONTRAST, everywhere if rng.random() < P_CONTRAST else ())
    coarse = _draw_channels(rng, num_channels, P_LOW_RESOLUTION_PER_CHANNEL) if rng.random() < P_LOW_RESOLUTION else ()
    low_resolution = {channel: float(rng.uniform(*LOW_RESOLUTION)) for channel in coarse}
    inverse_gamma = _draw_factors(rng, GAMMA, everywhere if rng.random() < P_INVERSE_GAMMA else ())
    gamma = _draw_factors(rng, GAMMA, everywhere if rng.random() < P_GAMMA else ())
    return IntensityDraws(
        noise_std=noise_std,
        blur=blur,
        brightness=brightness,
        contrast=contrast,
        low_resolution=low_resolution,
        inverse_gamma=inverse_gamma,
        gamma=gamma,
    )


def _draw_channels(rng: np.random.Generator, num_channels: int, probability: float) -> tuple[int, ...]:
    return tuple(np.flatnonzero(rng.random(num_channels) < probability).tolist())


def _draw_factors(rng: np.random.Generator, bounds: tuple[float, float], channels: tuple[int, ...]) -> dict[int, float]:
    """Draw one factor per channel: below 1 as often as above, uniform on either side (nnU-Net's BGContrast)."""
    low, high = bounds
    return {channel: float(rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)) for channel in channels}
