"""Gaussian noise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stu_pipeline.training.sampling.sample import Purpose, SampleKey


def add_noise(image: Tensor, *, std: float, key: SampleKey) -> None:
    """Add normal noise to every voxel of an image in place, drawn on its device from the key's own stream.

    Args:
        image: `(channel, *spatial)`, float.
        std: standard deviation, the same for all channels.
        key: the sample; the same key gives the same noise on the same kind of device.
    """
    generator = torch.Generator(device=image.device).manual_seed(derive_noise_seed(key))
    noise = torch.empty(image.shape, device=image.device, dtype=image.dtype)
    image.add_(noise.normal_(0.0, std, generator=generator))


def derive_noise_seed(key: SampleKey) -> int:
    """Return the seed of a sample's voxel noise, 64 bits."""
    return int(np.random.SeedSequence(key.entropy(Purpose.NOISE)).generate_state(1, np.uint64)[0])
