"""Write a corrected copy of a dataset where the mend is certain; everything else is listed, not touched.

Reads: every file of the dataset. Writes: a new folder, `dataset.json` last, and a record of what was mended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_json import DatasetJson
from stu_pipeline.doctor.examine import Examination
from stu_pipeline.doctor.finding import Finding, count_findings, name_some
from stu_pipeline.doctor.locate import find_folder
from stu_pipeline.doctor.mending.description import mend_description
from stu_pipeline.doctor.mending.jobs import list_jobs
from stu_pipeline.doctor.mending.mends import FileJob, FileMend, apply_mend, decide_mend
from stu_pipeline.errors import DataError, StorageError, UsageError
from stu_pipeline.log import Listener, Notice, Progress, ignore_events
from stu_pipeline.records import describe
from stu_pipeline.storage import measure_free_gib, read_json, write_json
from stu_pipeline.workers import run_in_workers
from stu_pipeline.workspace import fix_record, split_dataset_name

_SCHEMA = 1
_MAX_NAMED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FixOutcome:
    """What was mended, and what is left to decide."""

    source: Path
    folder: Path
    num_files: int
    num_bytes: int
    mended: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What was changed, by file of the dataset (its path in the original)."""
    undecided: tuple[Finding, ...] = ()

    @property
    def num_problems(self) -> int:
        """Problems that the copy still has."""
        return count_findings(self.undecided, "problem")

    def describe(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {"schema": _SCHEMA, **describe(self)}

    def write_lines(self) -> list[str]:
        """Say it in lines for a terminal."""
        lines = ["", f"copied {self.num_files} files ({self.num_bytes / 2**20:.1f} MiB) to {self.folder}"]
        by_change: dict[str, list[str]] = {}
        for name, changes in self.mended.items():
            for change in changes:
                by_change.setdefault(
                    "renamed to end in '_0000'" if change.startswith("renamed") else change, []
                ).append(name)
        lines += [f"  - mended: {change}: {name_some(names, _MAX_NAMED)}" for change, names in by_change.items()]
        if not self.mended:
            lines.append("  - nothing needed mending")
        if self.undecided:
            lines.append(f"not fixed, decide yourself: {len(self.undecided)} findings of those above")
        return lines


def require_target(target: Path | None, dataset: str | None) -> None:
    """Refuse a folder that must not be written to.

    Raises:
        UsageError: no dataset is given, the folder has something in it, or it and the dataset lie in each other.
    """
    if target is None:
        return
    if dataset is None:
        raise UsageError("--fix copies a dataset, and none was given", hint=f"stu doctor DATASET --fix {target}")
    _require_apart(find_folder(dataset), target)


def write_fixed_copy(
    examination: Examination, target: Path, *, num_workers: int = 0, listen: Listener = ignore_events
) -> FixOutcome:
    """Write the corrected copy of an examined dataset. The dataset itself is only read.

    Args:
        examination: what was found in the dataset.
        target: a folder that does not exist yet or is empty.
        num_workers: worker processes; 0 works in this process.
        listen: receives `Notice` and `Progress`.

    Raises:
        UsageError: the folder must not be written to, or the dataset lists its files by path.
        DataError: `dataset.json` cannot be mended.
        StorageError: not enough space, or not writable.
    """
    source, target = examination.folder, target.absolute()
    _require_apart(source, target)
    description = _require_description(examination)
    mends = _decide_mends(list_jobs(source, target, description), num_workers, listen)
    if description.file_label_ids is not None and any(mend.obstacle for mend in mends):
        # All label maps or none: one dataset.json describes them.
        mends = _decide_mends([replace(mend.job, label_ids=None) for mend in mends], num_workers, listen)
    is_renumbered = any(mend.job.label_ids is not None for mend in mends)
    _require_space(mends, target, listen)
    _apply_mends(mends, num_workers, listen)
    content, changes = _describe_copy(source, description, is_renumbered=is_renumbered)
    outcome = FixOutcome(
        source=source,
        folder=target,
        num_files=len(mends) + 1,
        num_bytes=_count_bytes(mends),
        mended=_list_changes(source, changes, mends),
        undecided=_list_undecided(examination, mends),
    )
    write_json(fix_record(target), outcome.describe())
    write_json(target / "dataset.json", content)
    if split_dataset_name(target.name) is None:
        listen(Notice(text=f"name the copy 'DatasetNNN_Name' before planning, it is '{target.name}'", is_warning=True))
    return outcome


def _require_apart(source: Path, target: Path) -> None:
    own, other = source.resolve(), target.resolve()
    if own == other or own in other.parents or other in own.parents:
        raise UsageError(
            f"--fix '{target}' and the dataset lie in each other; the dataset is never changed",
            where=source,
            hint="choose a folder beside it",
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            f"'{target.name}' exists and is not empty", where=target.parent, hint="choose a new folder, or empty it"
        )


def _require_description(examination: Examination) -> DatasetJson:
    description = examination.description
    if description is None:
        raise DataError(
            "dataset.json cannot be mended, only one reading of it must be possible",
            where=examination.folder,
            hint="correct it first, as docs/how-to/prepare-a-dataset.md shows",
        )
    if description.listed_cases is not None:
        raise UsageError("dataset.json lists its files by path, such datasets are not copied", where=examination.folder)
    return description


def _decide_mends(jobs: Sequence[FileJob], num_workers: int, listen: Listener) -> list[FileMend]:
    mends = []
    for outcome in run_in_workers(decide_mend, jobs, num_workers=num_workers, name_of=lambda job: job.source.name):
        if outcome.error is not None:
            raise outcome.error
        if outcome.result is not None:
            mends.append(outcome.result)
        listen(Progress(step="decide what to mend", done=len(mends), total=len(jobs)))
    return sorted(mends, key=lambda mend: mend.job.source)


def _require_space(mends: Sequence[FileMend], target: Path, listen: Listener) -> None:
    needed, free = _count_bytes(mends) / 2**30, measure_free_gib(target)
    listen(Notice(text=f"copying {len(mends)} files, {needed:.2f} GiB, to '{target}' ({free:.1f} GiB free)"))
    if needed >= free:
        raise StorageError(
            f"the copy needs {needed:.2f} GiB, {free:.2f} GiB are free", where=target.parent, hint="free some space"
        )


def _count_bytes(mends: Sequence[FileMend]) -> int:
    return sum(mend.job.source.stat().st_size for mend in mends)


def _apply_mends(mends: Sequence[FileMend], num_workers: int, listen: Listener) -> None:
    outcomes = run_in_workers(apply_mend, mends, num_workers=num_workers, name_of=lambda mend: mend.job.source.name)
    for done, outcome in enumerate(outcomes, start=1):
        if outcome.error is not None:
            raise outcome.error
        listen(Progress(step="copy files", done=done, total=len(mends)))


def _describe_copy(
    source: Path, description: DatasetJson, *, is_renumbered: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the content of the copy's `dataset.json` and what is different in it."""
    raw = read_json(source / "dataset.json")
    mended = mend_description(raw, source)
    content, changes = (mended.content, mended.changes) if mended else (raw, ())
    if not is_renumbered:
        return content, changes
    num_cases = content["numTraining"]
    return description.describe_for_engine(num_cases), (*changes, "labels renumbered without gaps, see stu_label_ids")


def _list_changes(source: Path, description: tuple[str, ...], mends: Sequence[FileMend]) -> dict[str, tuple[str, ...]]:
    by_file = {str(mend.job.source.relative_to(source)): mend.changes for mend in mends}
    return {name: changes for name, changes in {"dataset.json": description, **by_file}.items() if changes}


def _list_undecided(examination: Examination, mends: Sequence[FileMend]) -> tuple[Finding, ...]:
    """List the problems and warnings that the copy still has."""
    renamed = {mend.job.source.name for mend in mends if mend.job.source.name != mend.job.target.name}

    def is_mended(finding: Finding) -> bool:
        if finding.action == "describe":
            return True  # the copy has a description that was read, or there would be no copy
        names = {Path(name).name for name in finding.files}
        return finding.action == "complete" and bool(names & renamed)

    return tuple(finding for finding in examination.findings if finding.severity != "note" and not is_mended(finding))
