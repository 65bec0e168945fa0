"""Which channels can win inside a cell, from the scores at its 8 corners.

A new score is a weighted mean of the corners, and rounding keeps order: what one channel has at least everywhere,
another cannot beat by having less everywhere. A margin for rounding makes this safe, not approximate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stu_pipeline.inference.case_grid import Decision
from stu_pipeline.inference.voxel_codes import ROUNDING, TINY, UNCLEAR, VoxelCodes

CORNER_SCORES_AT_ONCE = 1 << 20
"""Scores of one corner of the undecided cells, over all channels, that are looked at together."""


@dataclass(frozen=True, slots=True, eq=False)
class NetworkPlane:
    """One plane of scores across the walk axis, as offsets into flat memory, and the codes of its voxels."""

    memory: torch.Tensor
    """One-dimensional, from the plane's first score to its last."""
    strides: tuple[int, int, int]
    """Between channels, and along both axes of the plane."""
    voxels: VoxelCodes
    """Of `(p, q)`."""

    @classmethod
    def of(cls, scores: torch.Tensor, voxels: VoxelCodes) -> NetworkPlane:
        """Describe `(c, p, q)` without copying it."""
        span = 1 + sum((size - 1) * stride for size, stride in zip(scores.shape, scores.stride(), strict=True))
        memory = scores.as_strided((span,), (1,), scores.storage_offset())
        channel, first, second = scores.stride()
        return cls(memory, (channel, first, second), voxels)

    def take(self, channels: torch.Tensor, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """Return scores float32 at channels and positions, which are broadcast."""
        channel, first, second = self.strides
        index = channels * channel + (p * first + q * second)
        return self.memory.index_select(0, index.view(-1)).view(index.shape).float()


Corners = list[tuple[NetworkPlane, torch.Tensor, torch.Tensor]]
"""The 8 corners of some cells in the order `(z, y, x)`, lower before upper: plane, and positions one per cell."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Channels that can win, cell by cell. Cells with more candidates come first."""

    cells: torch.Tensor
    """Positions in the list of cells that was asked about."""
    base: torch.Tensor
    """The code that wins where no candidate is above: int16, one per cell. Only with regions."""
    channels: torch.Tensor
    """All candidates, ascending within each cell."""
    starts: torch.Tensor
    """Where a cell's candidates start."""
    num_cells: tuple[int, ...]
    """Cells that have at least 1, 2, ... candidates."""


def find_agreement(
    planes: tuple[NetworkPlane, NetworkPlane],
    p: tuple[torch.Tensor, torch.Tensor],
    q: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Return the code that all 8 corners of a cell share, int16 `(p cells, q cells)`; elsewhere `UNCLEAR`.

    Args:
        planes: below and above the cells.
        p: lower and upper corner of the cells along the first axis of the planes.
        q: the same along the second.
    """
    below, above = (plane.voxels.codes for plane in planes)
    low, high = torch.minimum(below, above), torch.maximum(below, above)
    for dim, (lower, upper) in enumerate((p, q)):
        low, high = (
            torch.minimum(low.index_select(dim, lower), low.index_select(dim, upper)),
            torch.maximum(high.index_select(dim, lower), high.index_select(dim, upper)),
        )
    low[low != high] = UNCLEAR
    return low


def find_candidates(corners: Corners, decision: Decision) -> Candidates:
    """Find the channels that can win in each of some cells.

    Args:
        corners: of the cells.
        decision: softmax or regions.
    """
    device = corners[0][1].device
    channels = torch.arange(decision.num_outputs, device=device)[:, None]
    highest = lowest = torch.empty(0, device=device)
    for index, (plane, p, q) in enumerate(corners):
        scores = plane.take(channels, p, q)
        highest = torch.maximum(highest, scores) if index else scores
        lowest = torch.minimum(lowest, scores) if index else scores
    if decision.region_values is None:
        floor = lowest.amax(dim=0)
        can_win = highest >= floor - floor.abs() * ROUNDING - TINY
        base = torch.zeros(can_win.shape[1], dtype=torch.int16, device=device)
    else:
        # Above the last region that is surely there, those that are somewhere.
        codes = (channels + 1).to(torch.int16)
        base = torch.where(lowest > TINY, codes, 0).to(torch.int16).amax(dim=0)
        can_win = (highest > 0) & (codes > base)
    return _sort_candidates(can_win, base)


def _sort_candidates(can_win: torch.Tensor, base: torch.Tensor) -> Candidates:
    counts = can_win.sum(dim=0)
    starts = counts.cumsum(0) - counts
    order = counts.argsort(descending=True, stable=True)
    per_count = counts.bincount(minlength=1)
    at_least = per_count.flip(0).cumsum(0).flip(0)[1:]
    return Candidates(
        cells=order,
        base=base[order],
        channels=can_win.t().nonzero()[:, 1],
        starts=starts[order],
        num_cells=tuple(at_least.tolist()),
    )
