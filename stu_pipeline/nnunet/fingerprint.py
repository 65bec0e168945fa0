"""Measure a dataset's fingerprint with nnU-Net's own per-case analysis.

The result equals what `nnUNetv2_extract_fingerprint` writes (tests/contract/test_planner.py); the pool is
ours, so that progress is seen, a dead worker is named and a bad case says which one it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import DataError
from stu_pipeline.log import Listener, Progress, ignore_events
from stu_pipeline.nnunet.output import engine_output
from stu_pipeline.workers import run_in_workers

if TYPE_CHECKING:
    import numpy as np

STEP = "fingerprint"
# nnU-Net's number: intensities drawn from the foreground of the whole dataset, per channel.
NUM_SAMPLES = 100_000_000
_PERCENTILES = (0.5, 50.0, 99.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    case: Case
    reader_name: str
    num_samples: int
    log_path: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _CaseFacts:
    """One case: shape after cropping and spacing (z, y, x), intensities per channel, share kept by cropping."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    intensities: list[np.ndarray]
    relative_size: float


def extract_fingerprint(
    cases: Sequence[Case],
    reader_name: str,
    *,
    num_workers: int = 0,
    num_samples: int = NUM_SAMPLES,
    log_path: Path | None = None,
    listen: Listener = ignore_events,
) -> dict[str, Any]:
    """Measure spacings, shapes after cropping and foreground intensities of all cases.

    Args:
        cases: the training cases, at least one; sorted by id as nnU-Net sorts them.
        reader_name: nnU-Net's reader class.
        num_workers: processes; with less than two the work is done here.
        num_samples: intensities drawn from the foreground of the whole dataset, per channel.
        log_path: where the engine's words go.
        listen: receives one `Progress` per case.

    Returns:
        The content of `dataset_fingerprint.json`; lists are in the order of `cases`.

    Raises:
        DataError: cases that nnU-Net cannot read (all of them named), or no foreground at all.
        MemoryLimitError: a worker died.
    """
    jobs = [
        _Job(case=case, reader_name=reader_name, num_samples=num_samples // len(cases), log_path=log_path)
        for case in cases
    ]
    facts: dict[str, _CaseFacts] = {}
    failures = []
    outcomes = run_in_workers(_analyse_case, jobs, num_workers=num_workers, name_of=_job_name)
    for count, outcome in enumerate(outcomes, start=1):
        case_id = outcome.item.case.id
        if outcome.error is not None:
            failures.append(str(outcome.error))
        elif outcome.result is not None:
            facts[case_id] = outcome.result
        listen(Progress(step=STEP, done=count, total=len(jobs), item=case_id))
    if failures:
        problem = failures[0] if len(failures) == 1 else f"{len(failures)} of {len(jobs)} cases cannot be analysed"
        raise DataError(problem, hint="repair or remove them", details=tuple(failures[1:] and failures))
    return _summarise([facts[case.id] for case in cases])


def _analyse_case(job: _Job) -> _CaseFacts:
    import torch
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    torch.set_num_threads(1)
    try:
        with engine_output(job.log_path), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, spacing, intensities, _, relative_size = DatasetFingerprintExtractor.analyze_case(
                [str(file) for file in job.case.image_files],
                str(job.case.label_file),
                recursive_find_reader_writer_by_name(job.reader_name),
                job.num_samples,
            )
    except (RuntimeError, AssertionError, ValueError, OSError) as error:
        raise DataError(f"case '{job.case.id}' cannot be analysed: {error}") from error
    return _CaseFacts(
        shape=tuple(int(voxels) for voxels in shape),
        spacing=tuple(float(step) for step in spacing),
        intensities=list(intensities),
        relative_size=float(relative_size),
    )


def _summarise(facts: Sequence[_CaseFacts]) -> dict[str, Any]:
    import numpy as np

    channels: dict[str, Mapping[str, float]] = {}
    for channel in range(len(facts[0].intensities)):
        values = np.concatenate([fact.intensities[channel] for fact in facts])
        if values.size == 0:
            raise DataError(
                "no case has any foreground voxel, so there is nothing to learn",
                hint="check that labels in dataset.json match the label maps",
            )
        channels[str(channel)] = _describe_intensities(values)
    return {
        "foreground_intensity_properties_per_channel": channels,
        "median_relative_size_after_cropping": float(np.median([fact.relative_size for fact in facts])),
        "shapes_after_crop": [list(fact.shape) for fact in facts],
        "spacings": [list(fact.spacing) for fact in facts],
    }


def _describe_intensities(values: np.ndarray) -> dict[str, float]:
    import numpy as np

    low, median, high = np.percentile(values, np.array(_PERCENTILES))
    return {
        "max": float(np.max(values)),
        "mean": float(np.mean(values)),
        "median": float(median),
        "min": float(np.min(values)),
        "percentile_00_5": float(low),
        "percentile_99_5": float(high),
        "std": float(np.std(values)),
    }


def _job_name(job: _Job) -> str:
    return job.case.id
