"""Label maps at positions between voxels: the label with the largest interpolation weight wins.

nnU-Net interpolates one indicator image per label and takes the label with the largest value. Only the labels of the
2^d voxels around a position can have one, so these corners vote instead, at a cost that does not depend on how many
labels there are. The rules are nnU-Net's: outside the map lies label -1; weights that differ by less than half
precision can tell (in thousandths) are a tie; a tie goes to the label of the nearest voxel (half to even) if it is
among the tied ones, else to the lowest label. (For a map of exactly two labels nnU-Net compares with one half
instead, which widens the tie on one side by 1.25e-4 of weight; here all maps follow the general rule.)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

OUTSIDE_LABEL = -1
_WEIGHT_SCALE = 1000.0
_LARGEST_LABEL = torch.iinfo(torch.int16).max
# With two voxels of padding the outermost cell between voxels is padding all over, as everything further out is.
_PADDING = 2
_MIXED = torch.iinfo(torch.int16).min


@dataclass(frozen=True, slots=True, eq=False)
class PaddedLabels:
    """Label maps as `vote_labels` reads them."""

    maps: Tensor
    """int16 `(maps, *spatial + 4)`, contiguous, surrounded by label -1."""
    cells: Tensor | None
    """Of the same shape: the label of all corners of the cell that begins at a voxel, or `_MIXED`. Last ones unused."""


def pad_labels(labels: Tensor) -> PaddedLabels:
    """Prepare int16 label maps `(maps, *spatial)` of at least one voxel for `vote_labels`."""
    maps = functional.pad(labels, (_PADDING, _PADDING) * (labels.ndim - 1), value=OUTSIDE_LABEL)
    return PaddedLabels(maps, _merge_corners(maps) if labels.device.type == "cpu" else None)


def vote_labels(padded: PaddedLabels, positions: Sequence[Tensor], origin: Sequence[int]) -> Tensor:
    """Read label maps at positions between their voxels.

    Args:
        padded: from `pad_labels`.
        positions: one float tensor per spatial axis, all of one shape, in voxels from `origin`.
        origin: the voxel of the unpadded maps that positions count from. Kept apart from them, so that the same place
            in a smaller crop of the same maps gives the same bits.

    Returns:
        int16 `(maps, *shape of a position tensor)`. No host synchronisation, except on the CPU, where it is free and
        lets voxels whose corners agree skip the vote.
    """
    voxels = [position.floor().flatten().to(torch.int64) for position in positions]
    fractions = [position.flatten() - voxel for position, voxel in zip(positions, voxels, strict=True)]
    voxels = [voxel.add_(first) for voxel, first in zip(voxels, origin, strict=True)]
    if padded.cells is None:
        winners = _elect(_read_corners(padded.maps, voxels), fractions, voxels)
    else:
        winners = padded.cells.new_empty(len(padded.cells), len(voxels[0]))
        _read(padded.cells.flatten(1), _index_cells(padded.cells, voxels), out=winners)
        for votes, labels in zip(winners, padded.maps, strict=True):
            places = (votes == _MIXED).nonzero().squeeze(1)
            chosen = [voxel[places] for voxel in voxels]
            corners = _read_corners(labels.unsqueeze(0), chosen)
            votes[places] = _elect(corners, [fraction[places] for fraction in fractions], chosen)[0]
    return winners.view(len(winners), *positions[0].shape)


def _merge_corners(maps: Tensor) -> Tensor:
    cells = maps.clone()
    for axis in range(1, maps.ndim):
        size = cells.shape[axis] - 1
        lower, upper = cells.narrow(axis, 0, size), cells.narrow(axis, 1, size)
        lower.masked_fill_(lower != upper, _MIXED)
    return cells


def _index_cells(maps: Tensor, voxels: Sequence[Tensor]) -> Tensor:
    """Find the flat index of the first corner of each place in padded maps."""
    index = torch.zeros_like(voxels[0])
    for voxel, size, stride in zip(voxels, maps.shape[1:], maps.stride()[1:], strict=True):
        index += (voxel + _PADDING).clamp_(0, size - 2).mul_(stride)
    return index


def _read_corners(maps: Tensor, voxels: Sequence[Tensor]) -> Tensor:
    """Read the labels around each place: `(2^d, maps, places)`, the last axis changing fastest."""
    index = _index_cells(maps, voxels)
    flat, strides = maps.flatten(1), maps.stride()[1:]
    corners = flat.new_empty(2 ** len(strides), len(flat), len(index))
    steps = itertools.product(*((0, stride) for stride in strides))
    for corner, shift in zip(corners, map(sum, steps), strict=True):
        _read(flat[:, shift:], index, out=corner)
    return corners


def _read(flat: Tensor, index: Tensor, *, out: Tensor) -> None:
    for values, target in zip(flat, out, strict=True):
        torch.take(values, index, out=target)


def _elect(corners: Tensor, fractions: Sequence[Tensor], voxels: Sequence[Tensor]) -> Tensor:
    """Choose the winner of each place: `(maps, places)` from corners `(2^d, maps, places)`."""
    weights = _weigh_corners(fractions).unsqueeze(1)
    zero = weights.new_zeros(())
    scores = torch.empty(corners.shape, dtype=torch.float16, device=corners.device)
    for score, corner in zip(scores, corners, strict=True):
        score.copy_(torch.where(corners == corner, weights, zero).sum(0))
    best = scores.amax(0)
    lowest = corners.masked_fill(scores != best, _LARGEST_LABEL).amin(0)
    nearest = _find_nearest(fractions, voxels).expand(1, *best.shape)
    is_tied = scores.gather(0, nearest)[0] == best
    return torch.where(is_tied, corners.gather(0, nearest)[0], lowest)


def _weigh_corners(fractions: Sequence[Tensor]) -> Tensor:
    """Interpolation weight of every corner, in thousandths: float32 `(2^d, places)`."""
    weights = torch.full((2 ** len(fractions), len(fractions[0])), _WEIGHT_SCALE, device=fractions[0].device)
    ends = itertools.product(*((1 - fraction, fraction) for fraction in fractions))
    for weight, combination in zip(weights, ends, strict=True):
        for end in combination:
            weight.mul_(end)
    return weights


def _find_nearest(fractions: Sequence[Tensor], voxels: Sequence[Tensor]) -> Tensor:
    """Number of the corner that is the nearest voxel, half to even: int64 `(places,)`."""
    nearest = torch.zeros_like(voxels[0])
    for fraction, voxel in zip(fractions, voxels, strict=True):
        is_upper = (fraction > 0.5) | ((fraction == 0.5) & (voxel % 2 == 1))
        nearest = nearest * 2 + is_upper
    return nearest
