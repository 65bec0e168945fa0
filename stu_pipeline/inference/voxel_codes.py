"""What a voxel's scores say on their own: the winning channel, and whether it wins clearly.

The scores of all channels are read once, a cache-sized piece at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from stu_pipeline.errors import NonFiniteError
from stu_pipeline.inference.case_grid import Decision

UNCLEAR = -1
"""The code of a voxel whose best channels are too close to say that weighted means keep their order."""
ROUNDING = 2.0**-18
"""Bound on the relative error of a weighted mean of 8 scores in single precision, with a factor of 4 to spare."""
TINY = 1e-30
"""Differences below this are not relied on: their products with a weight may round to zero."""

CPU_PIECE = 1 << 15
"""Voxels of a piece: it and the running results stay in the cache of a core."""
CUDA_PIECE = 1 << 22
"""The same on a GPU, where a piece must be large to keep it busy."""
_MANTISSA_BITS = 23
_NUM_KEYS = 3
# With fewer channels it is faster to look at all of them.
_MIN_KEYED_CHANNELS = 9


@dataclass(frozen=True, slots=True, eq=False)
class VoxelCodes:
    """What is known of voxels once all their channels were read."""

    codes: torch.Tensor
    """Int16. The channel with the highest score; with regions 1 + the last channel above 0, or 0. `UNCLEAR` where
    rounding could make another channel win the mean of such voxels."""
    keys: torch.Tensor | None
    """The three highest scores of a softmax with many channels, `(3, ...)` float32: the lowest bits of each are its
    channel. None elsewhere."""

    def select(self, axis: int, index: int) -> VoxelCodes:
        """Return one plane of `(z, y, x)` across a spatial axis."""
        keys = None if self.keys is None else self.keys.select(1 + axis, index)
        return VoxelCodes(self.codes.select(axis, index), keys)

    def clone(self) -> VoxelCodes:
        """Copy, so that a plane does not keep the slab's memory."""
        return VoxelCodes(self.codes.clone(), None if self.keys is None else self.keys.clone())


def find_channel_bits(num_channels: int) -> int:
    """Return the mask of the bits of a key that hold its channel."""
    return (1 << max(1, (num_channels - 1).bit_length())) - 1


def find_key_error(num_channels: int) -> float:
    """Return by what share of its value a key may differ from its score."""
    return float((find_channel_bits(num_channels) + 1) * 2.0**-_MANTISSA_BITS)


def code_voxels(scores: torch.Tensor, decision: Decision) -> VoxelCodes:
    """Find the code of every voxel, and with many channels its three highest scores.

    Args:
        scores: `(c, z, y, x)` of a floating type, any strides.
        decision: softmax or regions.

    Raises:
        NonFiniteError: a score is NaN or infinite.
    """
    codes = torch.empty(scores.shape[1:], dtype=torch.int16, device=scores.device)
    is_keyed = decision.region_values is None and len(scores) >= _MIN_KEYED_CHANNELS
    keys = torch.empty((_NUM_KEYS, *scores.shape[1:]), device=scores.device) if is_keyed else None
    for piece in list_pieces(scores):
        part = scores[(slice(None), *piece)]
        if decision.region_values is not None:
            codes[piece] = _code_regions(part)
            continue
        found = _find_keys(part)
        codes[piece] = _code_best(found, len(part))
        if keys is not None:
            keys[(slice(None), *piece)] = found
    return VoxelCodes(codes, keys)


def decide_voxels(scores: torch.Tensor, decision: Decision, threshold: float) -> torch.Tensor:
    """Return the winning code of every voxel, int16 `(z, y, x)`: the lower channel on a tie, none is unclear.

    Args:
        scores: `(c, z, y, x)` of a floating type, any strides.
        decision: softmax or regions.
        threshold: above which a region is painted.

    Raises:
        NonFiniteError: a score is NaN or infinite.
    """
    codes = torch.zeros(scores.shape[1:], dtype=torch.int16, device=scores.device)
    for piece in list_pieces(scores):
        part, code = scores[(slice(None), *piece)], codes[piece]
        if decision.region_values is None:
            _decide_best(part, code)
        else:
            _require_finite(part)
            for channel, values in enumerate(part):
                _raise_codes(code, values > threshold, channel + 1)
    return codes


def list_pieces(scores: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut `(c, z, y, x)` into pieces along z, or along z and y, of about as many voxels as a cache holds."""
    num_z, num_y, num_x = scores.shape[1:]
    rows = max(1, (CUDA_PIECE if scores.is_cuda else CPU_PIECE) // num_x)
    step_z, step_y = max(1, rows // num_y), min(rows, num_y)
    for z in range(0, num_z, step_z):
        for y in range(0, num_y, step_y):
            yield slice(z, z + step_z), slice(y, y + step_y)


def _find_keys(part: torch.Tensor) -> torch.Tensor:
    """Find the three highest scores and their channels without comparisons, which are slow; -inf where there is none.

    The lowest bits of a score give way to its channel: the maximum of such keys brings the channel along.
    """
    bits = find_channel_bits(len(part))
    keys = torch.full((_NUM_KEYS, *part.shape[1:]), -torch.inf, device=part.device)
    best, second, third = keys
    worse, key = torch.empty_like(best), torch.empty_like(best)
    key_bits = key.view(torch.int32)
    for channel, values in enumerate(part):
        # An infinite score becomes NaN with its channel (but for channel 0), and maxima hand NaN on.
        torch.bitwise_and(values.float().view(torch.int32), ~bits, out=key_bits)
        key_bits.bitwise_or_(channel)
        torch.minimum(second, key, out=worse)
        torch.maximum(third, worse, out=third)
        torch.minimum(best, key, out=worse)
        torch.maximum(second, worse, out=second)
        torch.maximum(best, key, out=best)
    _require_finite(best)
    _require_finite(part[0])
    return keys


def _code_best(keys: torch.Tensor, num_channels: int) -> torch.Tensor:
    best, second, _ = keys
    codes: torch.Tensor = best.view(torch.int32).bitwise_and(find_channel_bits(num_channels)).to(torch.int16)
    if num_channels > 1:
        error = ROUNDING + 2 * find_key_error(num_channels)
        codes[best - second <= (best.abs() + second.abs()) * error + TINY] = UNCLEAR
    return codes


def _code_regions(part: torch.Tensor) -> torch.Tensor:
    _require_finite(part)
    codes = torch.zeros(part.shape[1:], dtype=torch.int16, device=part.device)
    surely = codes.clone()
    for channel, values in enumerate(part):
        _raise_codes(codes, values > 0, channel + 1)
        _raise_codes(surely, values > TINY, channel + 1)
    codes[codes != surely] = UNCLEAR
    return codes


def _decide_best(part: torch.Tensor, codes: torch.Tensor) -> None:
    best = part[0].float().clone()
    lowest = best.clone()
    for channel in range(1, len(part)):
        values = part[channel].float()
        _raise_codes(codes, values > best, channel)
        torch.maximum(best, values, out=best)
        torch.minimum(lowest, values, out=lowest)
    _require_finite(best)
    _require_finite(lowest)


def _raise_codes(codes: torch.Tensor, where: torch.Tensor, code: int) -> None:
    """Set `codes` to `code`, which is higher than any before; a maximum is several times faster than masking."""
    torch.maximum(codes, where.to(torch.int16).mul_(code), out=codes)


def _require_finite(values: torch.Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise NonFiniteError("the scores of the network contain NaN or infinity")
