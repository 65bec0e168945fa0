"""Commit one preprocessed case at a time, and check later that it is still what was committed.

Runs in worker processes. Writes: the files of a case in a scratch folder, then in the data folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.signature import sign_case
from stu_pipeline.errors import DataError
from stu_pipeline.preprocessing.case import CaseJob, write_case
from stu_pipeline.preprocessing.manifest import CommittedCase, FileMark
from stu_pipeline.storage import hash_file, move_file, storage_errors, sync_file, sync_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseCheck:
    """A case that was committed, to be compared with its files as they are now."""

    case: Case
    committed: CommittedCase
    data_folder: Path


def commit_case(job: CaseJob) -> CommittedCase:
    """Preprocess one case and give its files their final names, the last one when all others have theirs.

    The files are complete, flushed and hashed before they move, so whatever ends the process, a final name
    never stands for a part of a file. The case counts as done only once the caller has noted the result.

    Raises:
        DataError: an input file is damaged.
        StorageError: the disk is full or not writable.
    """
    source = sign_case(job.case)
    with storage_errors(job.scratch_folder):
        job.scratch_folder.mkdir(parents=True, exist_ok=True)
        job.data_folder.mkdir(parents=True, exist_ok=True)
    # What a failure leaves in the scratch folder goes with that folder, when the workers are done.
    written = write_case(job)
    marks = {}
    for file in written:
        with storage_errors(file):
            sync_file(file)
        marks[file.name] = FileMark(file.stat().st_size, hash_file(file))
    for file in written:
        move_file(file, job.data_folder / file.name)
    sync_folder(job.data_folder)
    return CommittedCase(case_id=job.case.id, source=source, files=marks)


def check_case(check: CaseCheck) -> str:
    """Return why a committed case must be done again; an empty string when it need not."""
    marks = {check.data_folder / name: mark for name, mark in check.committed.files.items()}
    for file, mark in marks.items():
        if not file.is_file():
            return "lost files"
        if file.stat().st_size != mark.num_bytes:
            return "damaged files"
    try:
        if sign_case(check.case) != check.committed.source:
            return "other images or labels"
    except DataError:
        return "other images or labels"  # unreadable: doing the case again will say so
    # Last, as it reads every byte.
    return "" if all(hash_file(file) == mark.sha256 for file, mark in marks.items()) else "damaged files"
