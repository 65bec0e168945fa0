"""Check a whole dataset: read every case once and collect every problem.

Reads: `dataset.json`, `imagesTr`, `labelsTr`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stu_pipeline.datasets.cases import Case, list_training_cases
from stu_pipeline.datasets.dataset_json import DatasetJson, read_dataset_json
from stu_pipeline.datasets.reading import read_header, read_image, read_label_map
from stu_pipeline.datasets.volume import Grid, Volume, check_same_grid
from stu_pipeline.errors import DataError, StuError
from stu_pipeline.workers import run_in_workers


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseReport:
    """What was found in one case. Shape and spacing are those of the first channel, `(z, y, x)`."""

    case_id: str
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    label_voxels: dict[int, int] = field(default_factory=dict)
    """Voxels per label value present, background included; empty when voxels were not read."""
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetReport:
    """What was found in a dataset. It can be used exactly when `problems` is empty."""

    name: str
    num_cases: int
    cases: tuple[CaseReport, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    has_read_voxels: bool


def check_dataset(
    raw: Path,
    *,
    num_workers: int,
    read_voxels: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> DatasetReport:
    """Read every case of a dataset once and report all problems together.

    Args:
        raw: the dataset's raw folder.
        num_workers: worker processes; 0 reads in this process.
        read_voxels: False reads headers only: grids are compared, voxels and labels are not.
        on_progress: called with cases done and cases in all.

    Raises:
        DataError: `dataset.json` or the file listing is unusable, so that there are no cases to read.
    """
    dataset_json = read_dataset_json(raw)
    cases = list_training_cases(raw, dataset_json)
    inspect = functools.partial(inspect_case, dataset_json=dataset_json, read_voxels=read_voxels)
    reports: list[CaseReport] = []
    for outcome in run_in_workers(inspect, cases, num_workers=num_workers, name_of=lambda case: case.id):
        if outcome.result is not None:
            reports.append(outcome.result)
        elif outcome.error is not None:
            reports.append(CaseReport(case_id=outcome.item.id, problems=(outcome.error.problem,)))
        if on_progress:
            on_progress(len(reports), len(cases))
    reports.sort(key=lambda report: report.case_id)
    problems, warnings = _look_across(reports, dataset_json, read_voxels=read_voxels)
    return DatasetReport(
        name=raw.name,
        num_cases=len(cases),
        cases=tuple(reports),
        problems=(*_prefix(reports, "problems"), *problems),
        warnings=(*_prefix(reports, "warnings"), *warnings),
        has_read_voxels=read_voxels,
    )


def require_dataset(
    raw: Path,
    *,
    num_workers: int,
    read_voxels: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> DatasetReport:
    """Check a dataset and refuse it when there is any problem.

    Raises:
        DataError: with every problem in `details`.
    """
    report = check_dataset(raw, num_workers=num_workers, read_voxels=read_voxels, on_progress=on_progress)
    if not report.problems:
        return report
    one = len(report.problems) == 1
    raise DataError(
        report.problems[0] if one else f"dataset '{report.name}' has {len(report.problems)} problems",
        where=raw,
        hint="correct or remove the case" if one else "correct or remove these cases",
        details=() if one else report.problems,
    )


def inspect_case(case: Case, *, dataset_json: DatasetJson, read_voxels: bool) -> CaseReport:
    """Read one case and report what is wrong with it. Never raises for bad data."""
    problems: list[str] = []
    grids: list[Grid] = []
    for path in case.image_files:
        grid = _try_grid(path, problems, read_voxels=read_voxels)
        if grid is not None:
            if grids:
                problems += [f"'{path.name}': {text}" for text in check_same_grid(grids[0], grid)]
            grids.append(grid)
    if len(grids) == len(case.image_files) and sum(g.num_channels for g in grids) != dataset_json.num_channels:
        found = sum(grid.num_channels for grid in grids)
        problems.append(f"the images have {found} channels, dataset.json names {dataset_json.num_channels}")
    label_voxels, warnings = _inspect_label(case, grids, dataset_json, problems, read_voxels=read_voxels)
    return CaseReport(
        case_id=case.id,
        shape=grids[0].shape if grids else None,
        spacing_mm=grids[0].spacing_mm if grids else None,
        label_voxels=label_voxels,
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


def _try_grid(path: Path, problems: list[str], *, read_voxels: bool) -> Grid | None:
    try:
        return read_image(path).grid if read_voxels else read_header(path)
    except StuError as error:
        problems.append(error.problem)
        return None


def _inspect_label(
    case: Case, grids: Sequence[Grid], dataset_json: DatasetJson, problems: list[str], *, read_voxels: bool
) -> tuple[dict[int, int], list[str]]:
    path = case.label_file
    if path is None:
        return {}, []
    try:
        label: Grid | Volume = read_label_map(path) if read_voxels else read_header(path)
    except StuError as error:
        problems.append(f"label map {error.problem}")
        return {}, []
    if grids:
        problems += [f"label map '{path.name}': {text}" for text in check_same_grid(grids[0], label)]
    if not isinstance(label, Volume):
        return {}, []
    counts = np.bincount(label.array.ravel())
    voxels = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    known = set(dataset_json.label_values)
    problems += [
        f"label map '{path.name}' has {count} voxels of label {value}, which dataset.json does not name"
        for value, count in voxels.items()
        if value not in known
    ]
    is_empty = not any(value in voxels for value in dataset_json.foreground_values)
    return voxels, ["has no foreground"] if is_empty and known.issuperset(voxels) else []


def _look_across(
    reports: Sequence[CaseReport], dataset_json: DatasetJson, *, read_voxels: bool
) -> tuple[list[str], list[str]]:
    """Find what only shows over all cases: no foreground anywhere, labels that never occur."""
    if not read_voxels or not any(report.label_voxels for report in reports):
        return [], []
    present = {value for report in reports for value in report.label_voxels}
    missing = [value for value in dataset_json.foreground_values if value not in present]
    if len(missing) == len(dataset_json.foreground_values):
        return ["no case has any foreground"], []
    return [], [f"label {value} '{dataset_json.find_name(value)}' does not occur in any case" for value in missing]


def _prefix(reports: Sequence[CaseReport], what: str) -> list[str]:
    return [f"case '{report.case_id}': {text}" for report in reports for text in getattr(report, what)]
