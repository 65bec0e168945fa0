"""Decide what becomes of every file of a dataset in its corrected copy.

Reads: label maps and headers. Writes: the files of the copy, one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stu_pipeline.datasets.endings import split_ending
from stu_pipeline.datasets.label_ids import LabelIds
from stu_pipeline.datasets.reading import Grid, check_same_grid, read_header, read_label_map
from stu_pipeline.doctor.mending.rewrite import (
    can_write_header,
    can_write_label,
    find_stored_kind,
    write_clean_header,
    write_label,
)
from stu_pipeline.errors import DataError
from stu_pipeline.storage import copy_file

# What stock nnU-Net's own check allows between label and image; ours is wider.
_STOCK_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class FileJob:
    """One file of the dataset and where it goes. `image` is set for label maps: the image they belong to."""

    source: Path
    target: Path
    is_label: bool = False
    is_image: bool = False
    image: Path | None = None
    label_ids: LabelIds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMend:
    """What happens to one file. Without `changes` it is copied byte for byte."""

    job: FileJob
    changes: tuple[str, ...] = ()
    grid: Grid | None = None
    """What the new header says."""
    obstacle: str = ""
    """Why a label map cannot be mended."""

    @property
    def rewrites(self) -> bool:
        """Whether the content changes, not only the name."""
        return self.grid is not None


def decide_mend(job: FileJob) -> FileMend:
    """Decide what to mend in one file. A file that cannot be read is copied as it is."""
    renamed = (f"renamed to '{job.target.name}'",) if job.source.name != job.target.name else ()
    try:
        if job.is_label:
            return _decide_label(job)
        if job.is_image:
            grid = read_header(job.source)
            if grid.notes and can_write_header(job.source):
                return FileMend(job=job, changes=(*renamed, *grid.notes), grid=grid)
    except DataError as error:
        return FileMend(job=job, changes=renamed, obstacle=error.problem if job.is_label else "")
    return FileMend(job=job, changes=renamed)


def apply_mend(mend: FileMend) -> None:
    """Write one file of the copy.

    Raises:
        StorageError: not writable, or it does not hold what it should.
    """
    job = mend.job
    if mend.grid is None:
        copy_file(job.source, job.target)
    elif job.is_label:
        array = read_label_map(job.source).array
        labels = job.label_ids.to_consecutive(array) if job.label_ids is not None else array
        write_label(job.target, labels, mend.grid)
    else:
        write_clean_header(job.source, job.target, mend.grid)


def _decide_label(job: FileJob) -> FileMend:
    volume = read_label_map(job.source)
    changes = []
    if find_stored_kind(job.source) == "f":
        changes.append(f"whole numbers stored as floats, saved as {volume.array.dtype}")
    if job.label_ids is not None:
        job.label_ids.to_consecutive(volume.array)  # raises for labels that nobody named
        changes.append("labels renumbered without gaps")
    grid, reason = _choose_grid(volume.grid, job.image)
    changes += [reason] if reason else []
    if not changes:
        return FileMend(job=job)
    if not can_write_label(job.source):
        ending = split_ending(job.source.name)[1]
        return FileMend(job=job, obstacle=f"{ending} label maps are not written: {'; '.join(changes)}")
    return FileMend(job=job, changes=tuple(changes), grid=grid)


def _choose_grid(own: Grid, image: Path | None) -> tuple[Grid, str]:
    """Return the grid a label map gets, and why it is not its own."""
    try:
        theirs = read_header(image) if image is not None else own
    except DataError:
        theirs = own
    if check_same_grid(theirs, own):
        theirs = own  # a real difference, for the user to decide
    if own.notes:
        return theirs, "; ".join(own.notes)
    if not _is_close(own, theirs):
        return theirs, "position copied from its image (equal within tolerance)"
    return own, ""


def _is_close(first: Grid, second: Grid) -> bool:
    a = (*first.spacing_mm, *first.origin, *first.direction)
    b = (*second.spacing_mm, *second.origin, *second.direction)
    return bool(np.allclose(a, b, rtol=_STOCK_TOLERANCE, atol=_STOCK_TOLERANCE))
