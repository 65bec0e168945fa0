"""The sliding window as plainly as it can be written: the whole volume at once, one pass at a time."""

import itertools

import torch
from torch.nn import functional

from stu_pipeline.inference.tiles import build_importance, find_extent, find_tile_starts


def predict_densely(networks, image, settings):
    """Return logits `(outputs, z, y, x)` of an image `(c, z, y, x)`, float64 sums."""
    extent = find_extent(settings.patch_voxels)
    missing = [max(0, tile - size) for tile, size in zip(extent, image.shape[1:], strict=True)]
    sides = [side for count in missing for side in (count - count // 2, count // 2)]
    padded = functional.pad(image, sides[::-1])
    flat = 3 - len(settings.patch_voxels)
    starts = [list(range(image.shape[1]))] * flat
    starts += find_tile_starts(padded.shape[1 + flat :], extent[flat:], settings.step)
    importance = build_importance(settings.patch_voxels).double().reshape(extent)
    logits = torch.zeros(settings.num_outputs, *padded.shape[1:], dtype=torch.float64)
    weights = torch.zeros(padded.shape[1:], dtype=torch.float64)
    for corner in itertools.product(*starts):
        tile = tuple(slice(start, start + size) for start, size in zip(corner, extent, strict=True))
        x = padded[(slice(None), *tile)].reshape(1, -1, *settings.patch_voxels)
        logits[(slice(None), *tile)] += _average(networks, x).reshape(-1, *extent) * importance
        weights[tile] += importance
    inside = tuple(slice(count // 2, count // 2 + size) for count, size in zip(missing, image.shape[1:], strict=True))
    return (logits / weights)[(slice(None), *inside)].float()


def _average(networks, x):
    total = sum(network.weight for network in networks)
    return sum(
        _predict(network, x, axes).double() * network.weight / len(network.mirrorings) / total
        for network in networks
        for axes in network.mirrorings
    )


@torch.no_grad()
def _predict(network, x, axes):
    swap = network.side_swap if network.side_swap is not None and network.side_swap.applies_to(axes) else None
    axes = [axis + 2 for axis in axes]
    mirrored = torch.flip(x, axes)
    if swap is not None:
        mirrored = mirrored[:, list(swap.inputs)]
    output = torch.flip(network.run(mirrored), axes)
    return output if swap is None else output[:, list(swap.outputs)]
