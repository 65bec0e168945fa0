"""Normalise the intensities of a channel, with nnU-Net's schemes and single-precision arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stu_pipeline.errors import DataError

Channel = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Keeps a constant channel from being divided by zero.
_SMALLEST_DIVISOR = 1e-8
_LARGEST_BYTE = 255.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """How one channel is normalised: nnU-Net's name of the scheme and what it needs."""

    scheme: str
    within_mask: bool = False
    """Whether the z-score is measured and applied inside the object only."""
    statistics: Mapping[str, float] = field(default_factory=dict)
    """`mean`, `std`, `percentile_00_5` and `percentile_99_5` of the dataset's foreground."""


def normalise_channel(channel: Channel, normalisation: Normalisation, inside: Mask | None) -> None:
    """Normalise a channel in place.

    Args:
        channel: any shape.
        normalisation: the scheme.
        inside: what counts as the object; None is everything.

    Raises:
        DataError: the values do not fit the scheme.
    """
    NORMALISATIONS[normalisation.scheme](channel, normalisation, inside)


def _normalise_ct(channel: Channel, normalisation: Normalisation, _inside: Mask | None) -> None:
    known = normalisation.statistics
    np.clip(channel, known["percentile_00_5"], known["percentile_99_5"], out=channel)
    channel -= known["mean"]
    channel /= max(known["std"], _SMALLEST_DIVISOR)


def _normalise_z_score(channel: Channel, normalisation: Normalisation, inside: Mask | None) -> None:
    if not normalisation.within_mask:
        mean, std = channel.mean(), channel.std()
        channel -= mean
        channel /= max(std, _SMALLEST_DIVISOR)
        return
    # Gathered even when the mask is full: the order of the sum decides the last bit of the mean.
    selected = np.ones(channel.shape, dtype=bool) if inside is None else inside
    values = channel[selected]
    if values.size:
        channel[selected] = (values - values.mean()) / max(values.std(), _SMALLEST_DIVISOR)


def _normalise_nothing(_channel: Channel, _normalisation: Normalisation, _inside: Mask | None) -> None:
    pass


def _rescale_to_01(channel: Channel, _normalisation: Normalisation, _inside: Mask | None) -> None:
    channel -= channel.min()
    channel /= max(channel.max(), _SMALLEST_DIVISOR)


def _rescale_bytes_to_01(channel: Channel, _normalisation: Normalisation, _inside: Mask | None) -> None:
    lowest, highest = float(channel.min()), float(channel.max())
    if lowest < 0 or highest > _LARGEST_BYTE:
        raise DataError(
            f"has values from {lowest:g} to {highest:g}, expected the 0 to 255 of a colour picture",
            hint="give the channel another name in dataset.json: the planner takes it for a colour",
        )
    channel /= _LARGEST_BYTE


NORMALISATIONS: Mapping[str, Callable[[Channel, Normalisation, Mask | None], None]] = {
    "CTNormalization": _normalise_ct,
    "ZScoreNormalization": _normalise_z_score,
    "NoNormalization": _normalise_nothing,
    "RescaleTo01Normalization": _rescale_to_01,
    "RGBTo01Normalization": _rescale_bytes_to_01,
}
"""Every scheme that is implemented, under the name that plans use."""
