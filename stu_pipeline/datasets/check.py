"""Check a whole dataset: read every case once and collect every problem.

Reads: `dataset.json`, `imagesTr`, `labelsTr`, and a cache folder of earlier inspections, which it also writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.datasets.cases import Case, list_notes, list_training_cases
from stu_pipeline.datasets.dataset_json import DatasetJson, read_dataset_json
from stu_pipeline.datasets.inspection import CaseReport, Inspection, Observer
from stu_pipeline.datasets.reading import read_header
from stu_pipeline.datasets.statistics import MAX_POINTS
from stu_pipeline.errors import DataError
from stu_pipeline.host import count_usable_cores, measure_free_ram_gib
from stu_pipeline.workers import run_in_workers

__all__ = ["CaseReport", "DatasetReport", "check_dataset", "choose_max_points", "choose_num_workers", "require_dataset"]

# Quantiles of all cases together that are held in memory, per channel: 64 MiB as float32.
_MAX_POINTS_TOGETHER = 2**24
_MIN_POINTS = 1024
# Below this, starting workers takes longer than the reading.
_SMALL_DATASET_BYTES = 4 * 2**20
# Compressed sizes only hint at the number of voxels, so several headers are read.
_NUM_LARGEST = 8
_MEMORY_SHARE = 0.8
_IMPORTS_GIB = 0.15
# float32 of every channel; beside them the bytes of one file, the label map, and the foreground of one channel, twice.
_BYTES_PER_VOXEL, _BYTES_BESIDE = 4, 18


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetReport:
    """What was found in a dataset. It can be used exactly when `problems` is empty."""

    name: str
    num_cases: int
    cases: tuple[CaseReport, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def check_dataset(
    raw: Path,
    *,
    num_workers: int,
    on_progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
    may_write_cache: bool = True,
    observe: Observer | None = None,
) -> DatasetReport:
    """Read every case of a dataset once and report all problems together.

    Args:
        raw: the dataset's raw folder.
        num_workers: worker processes; 0 reads in this process.
        on_progress: called with cases done and cases in all.
        cache: folder with reports of sound cases; those are not read again.
        may_write_cache: False leaves the folder as it is.
        observe: looks at the voxels of every sound case; an importable function, for the workers.

    Raises:
        DataError: `dataset.json` or the file listing is unusable, so that there are no cases to read.
        StorageError: the cache cannot be written.
        MemoryLimitError: a case does not fit the memory.
    """
    dataset_json = read_dataset_json(raw)
    cases = list_training_cases(raw, dataset_json)
    inspect = Inspection(
        dataset_json=dataset_json,
        cache=cache,
        may_write_cache=may_write_cache,
        max_points=choose_max_points(len(cases)),
        observe=observe,
    )
    reports = _inspect_all(inspect, cases, num_workers, on_progress)
    problems, warnings = _look_across(reports, dataset_json)
    return DatasetReport(
        name=raw.name,
        num_cases=len(cases),
        cases=tuple(reports),
        problems=(*_prefix(reports, "problems"), *problems),
        warnings=(*list_notes(raw, dataset_json, cases), *_prefix(reports, "warnings"), *warnings),
    )


def require_dataset(report: DatasetReport, raw: Path) -> DatasetReport:
    """Refuse a dataset that has any problem.

    Raises:
        DataError: with every problem in `details`.
    """
    if not report.problems:
        return report
    one = len(report.problems) == 1
    raise DataError(
        report.problems[0] if one else f"dataset '{report.name}' has {len(report.problems)} problems",
        where=raw,
        hint=f"stu doctor {raw} groups them by what to do; correct or remove the case{'' if one else 's'}",
        details=() if one else report.problems,
    )


def choose_num_workers(wanted: int | None, cases: Sequence[Case]) -> int:
    """Choose how many processes inspect the cases, by cores, free memory and the largest headers; 0 means this one.

    What the user asked for wins.
    """
    if wanted is not None:
        return wanted
    sizes = {case.id: _count_bytes(case) for case in cases}
    if sum(sizes.values()) < _SMALL_DATASET_BYTES:
        return 0
    largest = sorted(cases, key=lambda case: -sizes[case.id])[:_NUM_LARGEST]
    needed_gib = _IMPORTS_GIB + max(_estimate_gib(case) for case in largest)
    fitting = int(measure_free_ram_gib() * _MEMORY_SHARE / needed_gib)
    return max(1, min(count_usable_cores(), len(cases), fitting))


def choose_max_points(num_cases: int) -> int:
    """Choose how many quantiles per case and channel are held in memory: fewer the more cases there are.

    >>> choose_max_points(200), choose_max_points(10_000)
    (65536, 1677)
    """
    return max(_MIN_POINTS, min(MAX_POINTS, _MAX_POINTS_TOGETHER // max(1, num_cases)))


def _count_bytes(case: Case) -> int:
    files = (file for file in (*case.image_files, case.label_file) if file is not None)
    # A file that is not there is reported with the others, by the inspection.
    return sum(file.stat().st_size for file in files if file.is_file())


def _estimate_gib(case: Case) -> float:
    try:
        grid = read_header(case.image_files[0])
    except DataError:  # the inspection says so
        return 0.0
    num_channels = max(grid.num_channels, len(case.image_files))
    return grid.num_voxels * (_BYTES_PER_VOXEL * num_channels + _BYTES_BESIDE) / 2**30


def _inspect_all(
    inspect: Inspection, cases: Sequence[Case], num_workers: int, on_progress: Callable[[int, int], None] | None
) -> list[CaseReport]:
    reports: list[CaseReport] = []
    for outcome in run_in_workers(inspect, cases, num_workers=num_workers, name_of=lambda case: case.id):
        if outcome.result is not None:
            reports.append(outcome.result)
        elif isinstance(outcome.error, DataError):
            reports.append(CaseReport(case_id=outcome.item.id, problems=(outcome.error.problem,)))
        elif outcome.error is not None:  # a full disk or memory is no fault of the case
            raise outcome.error
        if on_progress:
            on_progress(len(reports), len(cases))
    return sorted(reports, key=lambda report: report.case_id)


def _look_across(reports: Sequence[CaseReport], dataset_json: DatasetJson) -> tuple[list[str], list[str]]:
    """Find what only shows over all cases: no foreground anywhere, labels that never occur."""
    if not any(report.label_voxels for report in reports):
        return [], []
    present = {value for report in reports for value in report.label_voxels}
    missing = [value for value in dataset_json.foreground_values if value not in present]
    if len(missing) == len(dataset_json.foreground_values):
        return ["no case has any foreground"], []
    return [], [f"label {value} '{dataset_json.find_name(value)}' does not occur in any case" for value in missing]


def _prefix(reports: Sequence[CaseReport], what: str) -> list[str]:
    return [f"case '{report.case_id}': {text}" for report in reports for text in getattr(report, what)]
