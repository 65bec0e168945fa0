"""From augmented label maps to what the loss compares with and what a cascade reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from stu_pipeline.training.augmentation.settings import AugmentationSettings

_OUTSIDE_LABEL = -1
_BACKGROUND = 0


def blank_outside(data: Tensor, labels: Tensor, channels: Sequence[int]) -> Tensor:
    """Set channels to 0 where the label is negative, in place.

    Args:
        data: `(batch, channel, *spatial)`.
        labels: `(batch, map, *spatial)`; the first map counts, before -1 is removed from it.
        channels: those normalised inside the nonzero mask; empty changes nothing.
    """
    if channels:
        is_outside = labels[:, 0] < 0
        for channel in channels:
            data[:, channel].masked_fill_(is_outside, 0.0)
    return data


def remove_outside(labels: Tensor) -> Tensor:
    """Turn label -1 into background, in place."""
    return labels.masked_fill_(labels == _OUTSIDE_LABEL, _BACKGROUND)


def encode_previous(previous: Tensor, label_ids: Sequence[int]) -> Tensor:
    """Encode the previous stage's label map as input channels.

    Args:
        previous: int16 `(batch, *spatial)`.
        label_ids: foreground labels, one channel each, in this order.

    Returns:
        Float32 `(batch, len(label_ids), *spatial)` of zeros and ones.
    """
    shape = (len(previous), len(label_ids), *previous.shape[1:])
    channels = torch.empty(shape, dtype=torch.float32, device=previous.device)
    for index, label in enumerate(label_ids):
        channels[:, index] = previous == label
    return channels


def make_targets(labels: Tensor, settings: AugmentationSettings) -> list[Tensor]:
    """Make the target of every level of the network, full resolution first.

    Args:
        labels: int16 `(batch, 1, *spatial)` without -1.
        settings: regions, ignore label and levels.

    Returns:
        One tensor `(batch, 1, *spatial)` int16 per level, or with regions `(batch, num_regions, *spatial)` bool with
        the ignore label, if there is one, as last channel. Without deep supervision a list of one.
    """
    target = labels if settings.regions is None else _encode_regions(labels, settings)
    if settings.deep_supervision_scales is None:
        return [target]
    return [_shrink(target, scales) for scales in settings.deep_supervision_scales]


def _encode_regions(labels: Tensor, settings: AugmentationSettings) -> Tensor:
    regions = list(settings.regions or ())
    if settings.ignore_label is not None:
        regions.append((settings.ignore_label,))
    shape = (len(labels), len(regions), *labels.shape[2:])
    target = torch.zeros(shape, dtype=torch.bool, device=labels.device)
    for index, members in enumerate(regions):
        # One comparison per label: torch.isin would need the labels on the device, and wait for the copy.
        for label in members:
            target[:, index] |= labels[:, 0] == label
    return target


def _shrink(target: Tensor, scales: Sequence[float]) -> Tensor:
    """Take the voxel nearest to the middle of every voxel of a coarser grid."""
    if all(scale == 1 for scale in scales):
        return target
    sizes = target.shape[2:]
    new_sizes = [round(size * scale) for size, scale in zip(sizes, scales, strict=True)]
    if all(new and size % new == 0 for size, new in zip(sizes, new_sizes, strict=True)):
        factors = [size // new for size, new in zip(sizes, new_sizes, strict=True)]
        picks = tuple(slice(factor // 2, None, factor) for factor in factors)
        return target[(slice(None), slice(None), *picks)].contiguous()
    shrunk = functional.interpolate(target.float(), new_sizes, mode="nearest-exact")
    return shrunk.to(target.dtype)
