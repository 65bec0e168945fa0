"""Write the label maps of the sources with the labels of the union; what is done already is recognised.

Reads: label maps of the sources. Writes: `labelsTr/<case>.nii.gz` of the union, and its journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.label_copy import write_label_copy
from stu_pipeline.datasets.signature import sign_file
from stu_pipeline.datasets.union.record import LabelMark, add_mark, hash_table, read_marks
from stu_pipeline.errors import DataError, StorageError
from stu_pipeline.log import Listener, Progress
from stu_pipeline.workers import run_in_workers

_NO_LABEL = 65535
_MAX_BYTE = 255
_MAX_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTask:
    """One label map to write: its case in the union, where it is from, and what becomes of its values."""

    case_id: str
    source: Path
    target: Path
    table: tuple[tuple[int, int], ...]
    """Id in the file of the source to label of the union, for every id the source names."""

    @property
    def table_hash(self) -> str:
        """Stands for the table."""
        return hash_table(dict(self.table))


def rewrite_label(task: LabelTask) -> LabelMark:
    """Write one label map; runs in a worker.

    Raises:
        DataError: the label map is damaged, or holds values its dataset does not name.
        StorageError: the disk is full or not writable.
    """
    source = sign_file(task.source)
    write_label_copy(task.source, task.target, lambda labels: translate(labels, dict(task.table)))
    return LabelMark(source, task.table_hash, sign_file(task.target))


def translate(labels: npt.NDArray[Any], table: dict[int, int]) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Replace label values `(z, y, x)`, as uint8 (largest label 255) or uint16.

    Raises:
        DataError: values that the table does not hold, with their counts.
    """
    lookup = np.full(_NO_LABEL + 1, _NO_LABEL, dtype=np.uint16)
    lookup[list(table)] = list(table.values())
    translated = lookup[labels]
    if (translated == _NO_LABEL).any():
        values, counts = np.unique(labels[translated == _NO_LABEL], return_counts=True)
        shown = [f"{count} voxels of label {value}" for value, count in zip(values, counts, strict=True)]
        more = f" and {len(shown) - _MAX_SHOWN} more labels" if len(shown) > _MAX_SHOWN else ""
        raise DataError(f"has {', '.join(shown[:_MAX_SHOWN])}{more}, which dataset.json does not name")
    kind = np.uint8 if max(table.values()) <= _MAX_BYTE else np.uint16
    result: npt.NDArray[np.unsignedinteger[Any]] = translated.astype(kind)
    return result


def find_finished(folder: Path, tasks: Sequence[LabelTask]) -> dict[str, LabelMark]:
    """Return the label maps that are there and right, by case; each is proven by its hash."""
    marks = read_marks(folder)
    return {task.case_id: mark for task in tasks if (mark := marks.get(task.case_id)) and _is_right(task, mark)}


def rewrite_labels(
    folder: Path, tasks: Sequence[LabelTask], *, num_workers: int, listen: Listener
) -> dict[str, LabelMark]:
    """Write the label maps that are not done, and return the marks of all, by case in the order of the tasks.

    Raises:
        DataError: label maps that cannot be used, all of them in `details`; the others are written.
        StorageError: the disk is full or not writable.
    """
    marks = find_finished(folder, tasks)
    waiting = [task for task in tasks if task.case_id not in marks]
    problems: list[str] = []
    outcomes = run_in_workers(rewrite_label, waiting, num_workers=num_workers, name_of=lambda task: task.case_id)
    for done, outcome in enumerate(outcomes, start=1):
        if isinstance(outcome.error, StorageError):
            raise outcome.error
        if outcome.error is not None:
            problems.append(f"case '{outcome.item.case_id}': {outcome.error}")
        elif outcome.result is not None:
            marks[outcome.item.case_id] = outcome.result
            add_mark(folder, outcome.item.case_id, outcome.result)
        listen(Progress(step="write label maps", done=done, total=len(waiting), item=outcome.item.case_id))
    if problems:
        raise DataError(
            f"{len(problems)} label map{'s' * (len(problems) != 1)} cannot be used",
            hint="correct them, or remove these cases, and run the same command again",
            details=tuple(sorted(problems)),
        )
    return {task.case_id: marks[task.case_id] for task in tasks}


def _is_right(task: LabelTask, mark: LabelMark) -> bool:
    try:
        return (
            mark.table == task.table_hash
            and mark.source == sign_file(task.source)
            and mark.written == sign_file(task.target)
        )
    except DataError:  # not there
        return False
