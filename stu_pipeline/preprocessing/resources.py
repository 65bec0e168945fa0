"""What preprocessing will use: workers, memory and disk, decided before it starts."""

from __future__ import annotations

import math
from pathlib import Path

from stu_pipeline.errors import StorageError
from stu_pipeline.planfile import ConfigurationPlan
from stu_pipeline.storage import measure_free_gib

# One float32 channel and an int16 label map per voxel.
_CHANNEL_BYTES, _LABEL_BYTES = 4, 2
# blosc2 roughly halves what is written; a forecast should rather be too high.
_COMPRESSION = 0.7
# nnU-Net resamples through float64 copies of the case, before and after.
_COPIES_IN_MEMORY = 8
_IMPORTS_GIB = 1.0
_MEMORY_SHARE = 0.8


def choose_num_workers(wanted: int | None, configuration: ConfigurationPlan, num_channels: int) -> int:
    """Choose how many processes fit the cores and the free memory; what the user asked for wins."""
    from stu_pipeline.nnunet.environment import count_usable_cores, measure_free_ram_gib

    if wanted is not None:
        return wanted
    case_gib = math.prod(configuration.median_shape) * num_channels * _CHANNEL_BYTES / 2**30
    per_worker_gib = _IMPORTS_GIB + _COPIES_IN_MEMORY * case_gib
    return max(1, min(count_usable_cores(), int(measure_free_ram_gib() * _MEMORY_SHARE / per_worker_gib)))


def forecast_disk_gib(configuration: ConfigurationPlan, *, num_cases: int, num_channels: int) -> float:
    """Forecast the size of the preprocessed data in GiB, rather too high than too low."""
    voxel_bytes = num_channels * _CHANNEL_BYTES + _LABEL_BYTES
    return math.prod(configuration.median_shape) * voxel_bytes * _COMPRESSION * num_cases / 2**30


def require_disk(folder: Path, needed_gib: float) -> None:
    """Refuse to start when the forecast does not fit the free space.

    Raises:
        StorageError: less is free than needed.
    """
    free = measure_free_gib(folder)
    if free < needed_gib:
        raise StorageError(
            f"preprocessed data needs about {needed_gib:.2f} GiB, {free:.2f} GiB are free",
            where=folder,
            hint="free some space, or point nnUNet_preprocessed elsewhere",
        )
