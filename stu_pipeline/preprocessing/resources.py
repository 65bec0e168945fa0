"""What preprocessing will use: workers, memory and disk, decided from the headers before it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.reading import read_header
from stu_pipeline.errors import DataError, MemoryLimitError, StorageError
from stu_pipeline.planfile import ConfigurationPlan
from stu_pipeline.preparation.target_grid import complete_target_spacing, compute_target_shape
from stu_pipeline.preprocessed_size import forecast_preprocessed_gib
from stu_pipeline.preprocessing.case import estimate_case_memory_gib
from stu_pipeline.storage import measure_free_gib

# Part of the free memory that workers may fill together; the rest is for the system and this process.
_MEMORY_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSize:
    """What one case takes, from its header."""

    case_id: str
    num_voxels: int
    """After resampling, of one channel."""
    memory_gib: float
    """At the worst moment of its preprocessing, the process included."""


def measure_cases(
    cases: Sequence[Case], configuration: ConfigurationPlan, transpose: Sequence[int], *, extra_gib: float = 0.0
) -> dict[str, CaseSize]:
    """Read one header per case. A case whose header cannot be read is left out: preprocessing names it.

    Args:
        cases: any cases of the dataset.
        configuration: with the target spacing.
        transpose: the plan's order of axes.
        extra_gib: what a process takes beside the case.
    """
    sizes: dict[str, CaseSize] = {}
    for case in cases:
        try:
            grid = read_header(case.image_files[0])
        except DataError:
            continue
        shape = [grid.shape[axis] for axis in transpose]
        spacing = [grid.spacing_mm[axis] for axis in transpose]
        target = compute_target_shape(shape, spacing, complete_target_spacing(spacing, configuration.spacing))
        num_channels = max(grid.num_channels, len(case.image_files))
        memory_gib = extra_gib + estimate_case_memory_gib(shape, target, num_channels)
        sizes[case.id] = CaseSize(case_id=case.id, num_voxels=math.prod(target), memory_gib=memory_gib)
    return sizes


def choose_num_workers(wanted: int | None, sizes: Mapping[str, CaseSize]) -> int:
    """Choose how many processes fit the cores and, each with the largest case, the free memory.

    What the user asked for wins, as long as one case fits.

    Raises:
        MemoryLimitError: not even one process with the largest case fits; the case is named.
    """
    from stu_pipeline.host import count_usable_cores, measure_free_ram_gib

    return fit_workers(wanted, sizes, num_cores=count_usable_cores(), free_gib=measure_free_ram_gib())


def fit_workers(wanted: int | None, sizes: Mapping[str, CaseSize], *, num_cores: int, free_gib: float) -> int:
    """Do what `choose_num_workers` does for a machine with these cores and this much free memory.

    Raises:
        MemoryLimitError: as `choose_num_workers`.
    """
    largest = max(sizes.values(), key=lambda size: size.memory_gib, default=None)
    needed_gib = largest.memory_gib if largest is not None else 0.0
    if largest is not None and needed_gib > free_gib:
        raise MemoryLimitError(
            f"case '{largest.case_id}' needs about {needed_gib:.1f} GiB of memory, {free_gib:.1f} GiB are free",
            hint="free some memory, or plan a lower resolution; stu plan --no-preprocess writes the plan alone",
        )
    if wanted is not None:
        return wanted
    fitting = int(free_gib * _MEMORY_SHARE / needed_gib) if needed_gib else num_cores
    return max(1, min(num_cores, fitting, len(sizes) or 1))


def forecast_disk_gib(sizes: Mapping[str, CaseSize], num_channels: int) -> float:
    """Forecast the size of the preprocessed cases in GiB, rather too high than too low."""
    num_voxels = float(sum(size.num_voxels for size in sizes.values()))
    return forecast_preprocessed_gib(voxels_per_case=num_voxels, num_channels=num_channels, num_cases=1)


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
