"""Inspect one case: read it once, find what is wrong with it, and measure what planning needs.

Reads: the image and label files of a case, and what a cache folder knows of it. Writes: the cache folder,
when there is one, for sound cases only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.dataset_json import DatasetJson
from stu_pipeline.datasets.inspection_cache import find_report, store_report
from stu_pipeline.datasets.reading import read_image, read_label_map
from stu_pipeline.datasets.statistics import MAX_POINTS, CaseStatistics, measure_case, thin_statistics
from stu_pipeline.datasets.volume import Grid, Volume, check_same_grid
from stu_pipeline.errors import StuError

Observer = Callable[[npt.NDArray[np.float32], Grid, npt.NDArray[np.generic]], Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaseReport:
    """What was found in one case. Shape and spacing are those of the first channel, `(z, y, x)`."""

    case_id: str
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    label_voxels: dict[int, int] = field(default_factory=dict)
    """Voxels per consecutive label value present, background included; empty when the label map cannot be read."""
    statistics: CaseStatistics | None = None
    """Measured when nothing is wrong with the case."""
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    observation: Any = None
    """What the observer returned, if there was one."""

    @property
    def labels(self) -> frozenset[int]:
        """The foreground labels present."""
        return frozenset(self.label_voxels) - {0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """How cases are inspected; picklable, for worker processes."""

    dataset_json: DatasetJson
    cache: Path | None = None
    """Folder that keeps the reports of sound cases; None keeps nothing."""
    may_write_cache: bool = True
    max_points: int = MAX_POINTS
    """Quantiles handed back per channel: less for thousands of cases, so that they fit the memory together."""
    observe: Observer | None = None
    """Looks at the voxels `(c, z, y, x)`, grid and label map of a sound case while they are in memory."""

    def __call__(self, case: Case) -> CaseReport:
        """Inspect a case. Never raises for bad data."""
        cached = None if self.observe else find_report(self.cache, case, self.dataset_json)
        report = CaseReport(**cached) if cached is not None else _inspect(case, self)
        if cached is None and self.cache and self.may_write_cache and not report.problems:
            store_report(self.cache, case, self.dataset_json, report)
        if report.statistics is None:
            return report
        return replace(report, statistics=thin_statistics(report.statistics, self.max_points))


def _inspect(case: Case, inspection: Inspection) -> CaseReport:
    dataset_json, problems = inspection.dataset_json, list[str]()
    images = _read_images(case, problems)
    grids = [image.grid for image in images]
    is_complete = len(grids) == len(case.image_files)
    if is_complete and sum(grid.num_channels for grid in grids) != dataset_json.num_channels:
        found = sum(grid.num_channels for grid in grids)
        problems.append(f"the images have {found} channels, dataset.json names {dataset_json.num_channels}")
    label = _read_label(case, grids, problems)
    notes = _list_notes([*grids, *([label.grid] if label else [])])
    report = CaseReport(
        case_id=case.id,
        shape=grids[0].shape if grids else None,
        spacing_mm=grids[0].spacing_mm if grids else None,
        problems=tuple(problems),
        warnings=tuple(notes),
    )
    if label is None:
        return report
    report = _look_at_labels(report, label, dataset_json)
    if report.problems or not is_complete:
        return report
    return _measure(report, images, label, inspection.observe)


def _read_images(case: Case, problems: list[str]) -> list[Volume]:
    images: list[Volume] = []
    for path in case.image_files:
        try:
            image = read_image(path)
        except StuError as error:
            problems.append(_tell(path, error))
            continue
        if images:
            problems += [f"'{path.name}': {text}" for text in check_same_grid(images[0], image)]
        images.append(image)
    return images


def _read_label(case: Case, grids: Sequence[Grid], problems: list[str]) -> Volume | None:
    path = case.label_file
    if path is None:
        return None
    try:
        label = read_label_map(path)
    except StuError as error:
        problems.append(f"label map {_tell(path, error)}")
        return None
    if grids:
        problems += [f"label map '{path.name}': {text}" for text in check_same_grid(grids[0], label)]
    return label


def _look_at_labels(report: CaseReport, label: Volume, dataset_json: DatasetJson) -> CaseReport:
    counts = np.bincount(label.array.ravel())
    found = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    file_ids = dataset_json.file_label_ids
    ids = (
        {stored: value for value, stored in enumerate(file_ids.original)}
        if file_ids
        else {value: value for value in dataset_json.label_values}
    )
    unknown = [
        f"label map '{label.path.name}' has {count} voxels of label {value}, which dataset.json does not name"
        for value, count in found.items()
        if value not in ids
    ]
    voxels = {ids[value]: count for value, count in found.items() if value in ids}
    is_empty = not any(value in voxels for value in dataset_json.foreground_values)
    return replace(
        report,
        label_voxels=voxels,
        problems=(*report.problems, *unknown),
        warnings=(*report.warnings, *(["has no foreground"] if is_empty and not unknown else [])),
    )


def _measure(report: CaseReport, images: Sequence[Volume], label: Volume, observe: Observer | None) -> CaseReport:
    channels = [channel for image in images for channel in image.array]
    observation = None
    if observe is not None:
        array = images[0].array if len(images) == 1 else np.concatenate([image.array for image in images])
        observation = observe(array.astype(np.float32, copy=False), images[0].grid, label.array)
    return replace(report, statistics=measure_case(channels, label.array), observation=observation)


def _list_notes(grids: Sequence[Grid]) -> list[str]:
    return [f"'{grid.path.name}': {note}" for grid in grids for note in grid.notes]


def _tell(path: Path, error: StuError) -> str:
    """Return the problem of one file; the file is named even where the message speaks of its folder only."""
    details = f" ({'; '.join(error.details)})" if error.details else ""
    text = f"{error.problem}{details}"
    return text if path.name in text else f"'{path.name}' {text}".replace(os.linesep, " ")
