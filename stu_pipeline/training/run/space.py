"""Room for the checkpoints of a training, checked before it starts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from stu_pipeline.errors import StorageError
from stu_pipeline.storage import measure_free_gib, previous_path
from stu_pipeline.training.run.start import STARTING_WEIGHTS
from stu_pipeline.training.run.state import NUM_OLDER
from stu_pipeline.workspace import RunPaths

_BYTES_FULL = 8
"""Per parameter: weight and momentum in float32."""
_BYTES_SLIM = 4
_MARGIN_GIB = 0.05


def require_checkpoint_space(
    paths: RunPaths, num_parameters: int, *, keeps_average: bool, keeps_start: bool = False
) -> None:
    """Require the disk to hold the checkpoints that a training will write beside those it has.

    Raises:
        StorageError: it does not; nothing was written.
    """
    needed_gib = forecast_new_gib(paths, num_parameters, keeps_average=keeps_average, keeps_start=keeps_start)
    free_gib = measure_free_gib(paths.folder)
    if free_gib < needed_gib:
        raise StorageError(
            f"the checkpoints of this run need {needed_gib:.1f} GiB more, {free_gib:.2f} GiB are free",
            where=paths.folder,
            hint="free some space and run the same command again",
        )


def forecast_new_gib(paths: RunPaths, num_parameters: int, *, keeps_average: bool, keeps_start: bool = False) -> float:
    """Return how much disk the run will take beside what it has, in GiB.

    The newest checkpoint and its older copies, one more while it is written, and the slim ones; for recipes that
    pull to the starting weights, these too.
    """
    latest = paths.checkpoint("latest")
    full = [latest, *(previous_path(latest, age) for age in range(1, NUM_OLDER + 1))]
    slim = [paths.checkpoint("best"), *([paths.checkpoint("ema")] if keeps_average else [])]
    slim += [paths.folder / STARTING_WEIGHTS] if keeps_start else []
    bytes_full = _BYTES_FULL + (_BYTES_SLIM if keeps_average else 0)
    new = num_parameters * (bytes_full * (1 + _count_missing(full)) + _BYTES_SLIM * _count_missing(slim))
    return float(new / 2**30 + _MARGIN_GIB)


def _count_missing(files: Iterable[Path]) -> int:
    return sum(1 for file in files if not file.is_file())
