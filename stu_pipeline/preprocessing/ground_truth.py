"""Copies of the label maps on their original grid, which nnU-Net's validation compares with.

Ids with gaps are replaced by the consecutive ones that the network predicts.
Reads: label files. Writes: `gt_segmentations/` and `gt_segmentations.manifest.json`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.endings import split_ending
from stu_pipeline.datasets.label_copy import write_label_copy
from stu_pipeline.datasets.label_ids import LabelIds
from stu_pipeline.datasets.signature import sign_file
from stu_pipeline.errors import DataError, StorageError
from stu_pipeline.log import Listener, Progress
from stu_pipeline.storage import copy_file, read_json, remove_leftovers, storage_errors, write_json
from stu_pipeline.workspace import DatasetPaths

_SCHEMA = 1
# Enough to keep the disk busy while others wait for it.
_NUM_THREADS = 4
_WRITE_INTERVAL_S = 2.0


@dataclass(frozen=True, slots=True)
class CopyMark:
    """Signatures of a label file and of its copy, taken when the copy was made."""

    source: str
    copy: str


def copy_ground_truth(
    dataset: DatasetPaths,
    cases: Sequence[Case],
    label_ids: LabelIds | None,
    *,
    file_ending: str | None = None,
    listen: Listener,
) -> None:
    """Copy the label maps that are not there yet, and remove the copies of cases that are gone.

    A label file that cannot be read is left out: preprocessing names it.

    Args:
        dataset: whose folder is filled. The caller holds its lock.
        cases: the training cases.
        label_ids: ids in the label files; None when they are copied as they are.
        file_ending: of the copies, as the validation looks for them; None keeps that of each label file.
        listen: receives one `Progress` per case.

    Raises:
        StorageError: a copy cannot be written.
    """
    remove_leftovers(dataset.ground_truth_manifest)
    if dataset.ground_truth.is_dir():
        remove_leftovers(dataset.ground_truth)
    before = _read_marks(dataset.ground_truth_manifest, label_ids)
    # Listed label files may have any name; a copy has the name of its case.
    sources = [
        (file, f"{case.id}{file_ending or split_ending(file.name)[1]}")
        for case in cases
        if (file := case.label_file) is not None
    ]
    marks: dict[str, CopyMark] = {}
    written_s = time.monotonic()
    pool = ThreadPoolExecutor(_NUM_THREADS)
    try:
        jobs = [
            pool.submit(_copy, file, dataset.ground_truth / name, before.get(name), label_ids) for file, name in sources
        ]
        for count, ((_, name), job) in enumerate(zip(sources, jobs, strict=True), start=1):
            mark = job.result()
            if mark is not None:
                marks[name] = mark
            if time.monotonic() - written_s > _WRITE_INTERVAL_S and marks != before:
                _write_marks(dataset.ground_truth_manifest, {**before, **marks}, label_ids)
                written_s = time.monotonic()
            listen(Progress(step="copy ground truth", done=count, total=len(sources), item=name))
    finally:
        pool.shutdown(cancel_futures=True)
    with storage_errors(dataset.ground_truth):
        for name in before.keys() - marks.keys():
            (dataset.ground_truth / name).unlink(missing_ok=True)
    if marks != before:
        _write_marks(dataset.ground_truth_manifest, marks, label_ids)


def _copy(source: Path, target: Path, before: CopyMark | None, label_ids: LabelIds | None) -> CopyMark | None:
    """Return the mark of a copy that is right, made now if need be; None when the source cannot be read."""
    is_exact = label_ids is None and split_ending(source.name)[1] == split_ending(target.name)[1]
    try:
        signature = sign_file(source)
        copied = sign_file(target) if target.is_file() else ""
        # An exact copy needs no record: it has the signature of its source.
        expected = signature if is_exact else (before.copy if before and before.source == signature else "")
        if not copied or copied != expected:
            if is_exact:
                copy_file(source, target)
            else:
                write_label_copy(source, target, label_ids.to_consecutive if label_ids is not None else np.array)
            copied = sign_file(target)
    except DataError:
        return None
    if is_exact and copied != signature:
        raise StorageError(f"the copy of '{source.name}' differs from what was written", where=target.parent)
    return CopyMark(source=signature, copy=copied)


def _read_marks(path: Path, label_ids: LabelIds | None) -> dict[str, CopyMark]:
    """Read the marks of copies that were made with the same ids; none when the file is missing or damaged."""
    try:
        document = read_json(path)
        if document["schema"] != _SCHEMA or document["label_ids"] != _list_ids(label_ids):
            return {}
        marks = {str(name): CopyMark(str(pair[0]), str(pair[1])) for name, pair in document["files"].items()}
    except (DataError, KeyError, TypeError, IndexError, AttributeError):
        return {}
    return {name: mark for name, mark in marks.items() if Path(name).name == name}


def _write_marks(path: Path, marks: dict[str, CopyMark], label_ids: LabelIds | None) -> None:
    files = {name: [marks[name].source, marks[name].copy] for name in sorted(marks)}
    document: dict[str, Any] = {"schema": _SCHEMA, "label_ids": _list_ids(label_ids), "files": files}
    write_json(path, document)


def _list_ids(label_ids: LabelIds | None) -> list[int] | None:
    return None if label_ids is None else list(label_ids.original)
