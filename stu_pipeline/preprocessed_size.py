"""How large preprocessed data will be: one forecast for planning and preprocessing."""

from __future__ import annotations

import math
from collections.abc import Sequence

BYTES_PER_VALUE, BYTES_PER_LABEL = 4, 2
"""A float32 per channel and voxel; an int16 label map."""

# blosc2 roughly halves what is written; a forecast should rather be too high.
_COMPRESSION = 0.7


def count_case_voxels(median_shape: Sequence[float], original_median_shape: Sequence[float]) -> float:
    """Count the voxels of the median case after preprocessing.

    Args:
        median_shape: of the configuration, (z, y, x) or (y, x).
        original_median_shape: of the images, (z, y, x) after transposing: a 2D configuration stores whole volumes
            and leaves their slices alone.

    >>> count_case_voxels([64, 64], [10, 128, 128])
    40960.0
    """
    slices = original_median_shape[:-2] if len(median_shape) == 2 else ()
    return float(math.prod((*slices, *median_shape)))


def forecast_preprocessed_gib(*, voxels_per_case: float, num_channels: int, num_cases: int) -> float:
    """Forecast the size of the preprocessed data in GiB, rather too high than too low."""
    voxel_bytes = num_channels * BYTES_PER_VALUE + BYTES_PER_LABEL
    return voxels_per_case * voxel_bytes * _COMPRESSION * num_cases / 2**30
