"""The common undecided cell: two channels meet, and nothing else comes near. Found without reading all channels."""

from __future__ import annotations

import torch

from stu_pipeline.inference.candidates import Candidates, Corners
from stu_pipeline.inference.voxel_codes import ROUNDING, TINY, find_channel_bits, find_key_error


def find_pairs(corners: Corners, num_channels: int) -> tuple[Candidates, torch.Tensor]:
    """Find the cells that only one or two channels can win, from the three highest scores at their corners.

    At a corner no other channel exceeds the third score. Where the highest third score stays below the lowest score
    of some channel, only first and second channels that reach that lowest score can win.

    Args:
        corners: of the cells; their planes have keys.
        num_channels: of the scores.

    Returns:
        The candidates of those cells, and the positions of the cells they are not known for.
    """
    best, second, third = _take_keys(corners)
    bits, error = find_channel_bits(num_channels), 2 * find_key_error(num_channels) + ROUNDING
    scores = torch.cat([best, second])
    channels = scores.view(torch.int32).bitwise_and(bits)
    first_channel, second_channel = channels.chunk(2)
    floor = torch.full(best.shape[1:], -torch.inf, device=best.device)
    for channel in (first_channel.amin(dim=0), first_channel.amax(dim=0)):
        score = torch.where(second_channel == channel, second, -torch.inf)
        score = torch.where(first_channel == channel, best, score)
        floor = torch.maximum(floor, score.amin(dim=0))
    ceiling = third.amax(dim=0)
    is_known = floor - ceiling > (floor.abs() + ceiling.abs()) * error + TINY
    can_win = scores >= floor - 2 * (floor.abs() * error + TINY)
    low = torch.where(can_win, channels, num_channels).amin(dim=0)
    high = torch.where(can_win, channels, -1).amax(dim=0)
    is_known &= ((channels == low) | (channels == high) | ~can_win).all(dim=0)
    return _list_pairs(is_known, low, high), (~is_known).nonzero()[:, 0]


def _take_keys(corners: Corners) -> list[torch.Tensor]:
    """Return the three highest keys at the corners, each `(8, cells)`."""
    taken = [plane.voxels.keys[:, p, q] for plane, p, q in corners if plane.voxels.keys is not None]
    return list(torch.stack(taken, dim=1))


def _list_pairs(is_known: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> Candidates:
    """Write one or two channels per cell as candidates, the cells with two first."""
    pairs, singles = ((is_known & which).nonzero()[:, 0] for which in (low != high, low == high))
    cells = torch.cat([pairs, singles])
    counts = (len(cells), len(pairs))
    return Candidates(
        cells=cells,
        base=torch.zeros(len(cells), dtype=torch.int16, device=low.device),
        channels=torch.stack([low[cells], high[cells]], dim=1).view(-1).long(),
        starts=2 * torch.arange(len(cells), device=low.device),
        num_cells=tuple(count for count in counts if count),
    )
