"""Measure the foreground intensities of one case, and join cases into nnU-Net's mixture.

nnU-Net draws the same number of foreground voxels, with replacement, from every case that has any, and
describes that sample. Its limit is a mixture of the cases' distributions with equal weights, which is what
is computed here: moments and extremes exactly, percentiles from at most `MAX_POINTS` quantiles per case.
Foreground is every voxel with a label above 0 inside the box of voxels that are not 0 in every channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# A quantile is off by at most half a point in rank: 1 / (2 * 65536), nnU-Net's own sampling error at 0.5 %.
MAX_POINTS = 2**16
# Integer intensities within this range are counted value by value, which is exact and needs no sorting.
_MAX_COUNTED_RANGE = 2**20
_PERCENTILES = {"percentile_00_5": 0.005, "median": 0.5, "percentile_99_5": 0.995}

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Values = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChannelStatistics:
    """The foreground intensities of one channel of one case, as a distribution.

    `values` are ascending, `shares` their probabilities (they sum to 1). Exact when the foreground has at
    most `MAX_POINTS` different values, else quantiles at equal distances in rank.
    """

    mean: float
    variance: float
    minimum: float
    maximum: float
    values: Values
    shares: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaseStatistics:
    """What the fingerprint needs of one case. Axes `(z, y, x)`.

    `channels` is empty when the case has no foreground.
    """

    shape_after_crop: tuple[int, int, int]
    relative_size: float
    """Share of the voxels that cropping keeps."""
    channels: tuple[ChannelStatistics, ...]


def measure_case(channels: Sequence[npt.NDArray[Any]], label: npt.NDArray[Any]) -> CaseStatistics:
    """Measure one case.

    Args:
        channels: one array `(z, y, x)` per channel.
        label: label map `(z, y, x)`; every value above 0 is foreground, an ignore label too, as in nnU-Net.
    """
    box = find_nonzero_box(channels)
    inside = tuple(slice(low, high) for low, high in box)
    foreground = label[inside] > 0
    shape = (box[0][1] - box[0][0], box[1][1] - box[1][0], box[2][1] - box[2][0])
    statistics: tuple[ChannelStatistics, ...] = ()
    if foreground.any():
        statistics = tuple(describe_values(channel[inside][foreground]) for channel in channels)
    return CaseStatistics(
        shape_after_crop=shape,
        relative_size=float(np.prod(shape, dtype=np.float64) / label.size),
        channels=statistics,
    )


def find_nonzero_box(channels: Sequence[npt.NDArray[np.generic]]) -> Box:
    """Find the box of voxels that are not 0 in at least one channel; the whole volume when there is none.

    Filling holes, as nnU-Net does before, cannot change the box.
    """
    box = []
    for axis in range(channels[0].ndim):
        # Slabs from both ends, not reductions of the whole volume: CT ends at once, nothing in it is 0.
        size = channels[0].shape[axis]
        low = next((index for index in range(size) if _has_voxels(channels, axis, index)), None)
        if low is None:
            return tuple((0, length) for length in channels[0].shape)  # type: ignore[return-value]
        high = next(index for index in range(size - 1, -1, -1) if _has_voxels(channels, axis, index))
        box.append((low, high + 1))
    return (box[0], box[1], box[2])


def describe_values(values: npt.NDArray[np.generic], max_points: int = MAX_POINTS) -> ChannelStatistics:
    """Describe a non-empty set of intensities, any shape."""
    flat = values.astype(np.float32, copy=False).ravel()
    mean = float(flat.mean(dtype=np.float64))
    # Two passes: one would lose the variance of a channel whose mean is large.
    variance = float(np.square(flat - np.float64(mean)).mean())
    points, shares = _count_whole_numbers(flat, max_points) or _count_or_thin(np.sort(flat), max_points)
    return ChannelStatistics(
        mean=mean,
        variance=variance,
        minimum=float(flat.min()),
        maximum=float(flat.max()),
        values=points,
        shares=shares,
    )


def thin_statistics(statistics: CaseStatistics, max_points: int) -> CaseStatistics:
    """Keep at most `max_points` quantiles per channel; moments and extremes stay exact."""
    thinned = []
    for channel in statistics.channels:
        values, shares = channel.values, channel.shares
        if len(values) > max_points:
            ranks = np.cumsum(shares)
            wanted = (np.arange(max_points) + 0.5) / max_points
            values = values[np.minimum(np.searchsorted(ranks, wanted), len(values) - 1)]
            shares = np.full(max_points, 1 / max_points)
        thinned.append(
            ChannelStatistics(
                mean=channel.mean,
                variance=channel.variance,
                minimum=channel.minimum,
                maximum=channel.maximum,
                values=values,
                shares=shares,
            )
        )
    return CaseStatistics(
        shape_after_crop=statistics.shape_after_crop,
        relative_size=statistics.relative_size,
        channels=tuple(thinned),
    )


def mix_channels(channels: Sequence[ChannelStatistics]) -> dict[str, float]:
    """Describe the mixture of one channel over cases, each with the same weight, by nnU-Net's names.

    Returns:
        `max`, `mean`, `median`, `min`, `percentile_00_5`, `percentile_99_5`, `std`; at least one case is needed.
    """
    means = np.array([channel.mean for channel in channels])
    variances = np.array([channel.variance for channel in channels])
    mean = float(means.mean())
    values = np.concatenate([channel.values for channel in channels])
    shares = np.concatenate([channel.shares for channel in channels]) / len(channels)
    order = np.argsort(values, kind="stable")
    values, ranks = values[order], np.cumsum(shares[order])
    found = {
        name: float(values[min(int(np.searchsorted(ranks, rank)), len(values) - 1)])
        for name, rank in _PERCENTILES.items()
    }
    return {
        "max": max(channel.maximum for channel in channels),
        "mean": mean,
        "median": found["median"],
        "min": min(channel.minimum for channel in channels),
        "percentile_00_5": found["percentile_00_5"],
        "percentile_99_5": found["percentile_99_5"],
        "std": float(np.sqrt((variances + (means - mean) ** 2).mean())),
    }


def _has_voxels(channels: Sequence[npt.NDArray[np.generic]], axis: int, index: int) -> bool:
    return any(bool(channel.take(index, axis=axis).any()) for channel in channels)


def _count_whole_numbers(flat: Values, max_points: int) -> tuple[Values, npt.NDArray[np.float64]] | None:
    """Count the values of a scan that stores integers; None when it does not, or has too many."""
    low, high = float(flat.min()), float(flat.max())
    if high - low > _MAX_COUNTED_RANGE or max(abs(low), abs(high)) > 2**23 or low != int(low):
        return None
    steps = flat - np.float32(low)
    indices = steps.astype(np.int32)
    if not np.array_equal(indices, steps):
        return None
    counts = np.bincount(indices)
    present = np.flatnonzero(counts)
    if len(present) > max_points:
        return None
    return (present + int(low)).astype(np.float32), counts[present] / len(flat)


def _count_or_thin(ordered: Values, max_points: int) -> tuple[Values, npt.NDArray[np.float64]]:
    """Count sorted values exactly while they are few, else take quantiles in the middle of equal shares."""
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    if len(starts) <= max_points:
        counts = np.diff(np.append(starts, len(ordered)))
        return ordered[starts], counts / len(ordered)
    ranks = (np.arange(max_points) + 0.5) / max_points
    return ordered[(ranks * len(ordered)).astype(np.int64)], np.full(max_points, 1 / max_points)
