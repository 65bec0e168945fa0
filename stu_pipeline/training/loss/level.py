"""One level of the outputs: what is summed over its voxels, how it is walked through, and its gradient's memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Chunk = tuple[slice, slice]
"""Samples and voxels."""

# Numbers of one chunk. On the CPU, per thread, its temporaries stay in the cache, which matters more than the number
# of calls; elsewhere a launch costs more, and 256 MiB per temporary are little beside logits that large.
CPU_CHUNK, DEVICE_CHUNK = 2**18, 2**26


@dataclass(frozen=True, slots=True, eq=False)
class LevelSums:
    """Sums over the voxels of one level that are not ignored, in the precision of `choose_sum_dtype`."""

    dice: Tensor
    """`(3, b, label)`: intersection, prediction and reference."""
    entropy: Tensor
    """`()`: cross-entropy over all samples; with regions over all regions too."""
    terms: Tensor
    """`()`: what the mean of the cross-entropy divides by."""


@dataclass(frozen=True, slots=True, eq=False)
class LevelSlopes:
    """How the loss changes with the sums of one level, in the precision of `choose_dtype`."""

    intersection: Tensor
    """`(b, label)`"""
    prediction: Tensor
    """`(b, label)`"""
    entropy: Tensor
    """`()`"""

    def scale_by(self, factor: Tensor) -> LevelSlopes:
        """Return the slopes of the loss times a factor of shape `()`."""
        first, second, third = self.intersection, self.prediction, self.entropy
        return LevelSlopes(*((slope * factor).to(slope.dtype) for slope in (first, second, third)))


class LevelLoss(Protocol):
    """What labels and regions do differently. Logits are `(b, label, *spatial)`; both loss kinds keep no state.

    `marked` is `(b, label)`, false where a label is not marked in a sample: the sums and the gradient are then those
    of a network without this output. None: all are marked.
    """

    def check_shapes(self, logits: Tensor, target: Tensor) -> str | None:
        """Return what is wrong with the two shapes, or None."""

    def count_terms(self, target: Tensor, marked: Tensor | None) -> Tensor:
        """Return what the mean of the cross-entropy divides by, `()`."""

    def sum_voxels(self, logits: Tensor, target: Tensor, marked: Tensor | None) -> LevelSums:
        """Return the sums of a level."""

    def make_gradient(self, logits: Tensor, target: Tensor, slopes: LevelSlopes, marked: Tensor | None) -> Tensor:
        """Return the gradient of the loss with respect to the logits, in their shape, dtype and layout."""


def choose_dtype(logits: Tensor) -> torch.dtype:
    """Return the precision in which voxels are computed: float32, or that of float64 logits."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def choose_sum_dtype(device: torch.device) -> torch.dtype:
    """Return the precision of sums over many voxels: float64 wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def make_empty_sums(logits: Tensor, terms: Tensor) -> LevelSums:
    """Return sums of nothing, for adding to."""
    dice = logits.new_zeros((3, *logits.shape[:2]), dtype=choose_sum_dtype(logits.device))
    return LevelSums(dice, dice.new_zeros(()), terms)


def make_empty_gradient(logits: Tensor) -> Tensor:
    """Return memory for a gradient, whose voxels can be walked through as one axis."""
    last = torch.channels_last_3d if logits.ndim == 5 else torch.channels_last
    is_last = logits.ndim in (4, 5) and logits.is_contiguous(memory_format=last)
    return torch.empty_like(logits, memory_format=last if is_last else torch.contiguous_format)


def split_chunks(logits: Tensor) -> Iterator[Chunk]:
    """Yield chunks that together hold every voxel of `(b, label, voxel)` once: several samples, or a piece of one."""
    samples, labels, voxels = logits.shape
    limit = CPU_CHUNK * torch.get_num_threads() if logits.device.type == "cpu" else DEVICE_CHUNK
    rows = max(1, min(samples, limit // max(1, labels * voxels)))
    step = max(1, min(voxels, limit // (rows * labels)))
    for row in range(0, samples, rows):
        for start in range(0, voxels, step):
            yield slice(row, row + rows), slice(start, start + step)


def choose_rows(marked: Tensor | None, rows: slice) -> Tensor | None:
    """Return the marks of some samples."""
    return None if marked is None else marked[rows]


def hide_unmarked(logits: Tensor, marked: Tensor | None) -> Tensor:
    """Return `(b, label, voxel)` with -inf where a label is not marked: its probability is 0, its gradient too."""
    return logits if marked is None else logits.masked_fill(~marked.unsqueeze(2), -torch.inf)
