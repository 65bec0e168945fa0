"""Decide which finished cases of a data folder are kept, and say why others are not.

Reads: the files of finished cases and their input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stu_pipeline.datasets.cases import Case
from stu_pipeline.log import Listener, Notice, Progress
from stu_pipeline.preprocessing.case_store import CaseStore
from stu_pipeline.preprocessing.commit import CaseCheck, check_case
from stu_pipeline.preprocessing.manifest import CommittedCase
from stu_pipeline.workers import run_in_workers

# Hashing less than this is done before a worker has started.
_SMALL_BYTES = 64 * 2**20
_MAX_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """What becomes of the cases that were finished before."""

    kept: dict[str, CommittedCase]
    redone: dict[str, str]
    """Reason by case id."""
    removed: tuple[str, ...] = ()
    """No longer in the dataset."""

    def tell(self, what: str, listen: Listener) -> None:
        """Send a notice for each reason why something is done again, and for what is removed."""
        for reason in Counter(self.redone.values()):
            names = sorted(case_id for case_id, why in self.redone.items() if why == reason)
            listen(Notice(text=f"{what}: {_count(names)} done again: {reason}{_name(names)}"))
        if self.removed:
            text = f"{what}: {_count(self.removed)} removed, no longer in the dataset{_name(self.removed)}"
            listen(Notice(text=text))


def decide_reuse(
    store: CaseStore, cases: Sequence[Case], *, force: bool, num_workers: int, listen: Listener, step: str
) -> Reuse:
    """Compare what was committed with what is there now, bytes included.

    Args:
        store: the data folder.
        cases: of the dataset as it is now.
        force: keep nothing.
        num_workers: for many bytes; a few are hashed here.
        listen: receives one `Progress` per case.
        step: its text.

    Raises:
        MemoryLimitError: a worker was killed.
    """
    known, reason = store.read()
    ids = {case.id for case in cases}
    removed = tuple(sorted(known.keys() - ids))
    redone = dict.fromkeys(sorted(store.list_present() & ids - known.keys()), reason) if reason else {}
    if force:
        return Reuse(kept={}, redone=dict.fromkeys(sorted(known.keys() & ids), "as asked for"), removed=removed)
    checks = [
        CaseCheck(case=case, committed=known[case.id], data_folder=store.folder) for case in cases if case.id in known
    ]
    num_bytes = sum(mark.num_bytes for check in checks for mark in check.committed.files.values())
    outcomes = run_in_workers(
        check_case, checks, num_workers=num_workers if num_bytes > _SMALL_BYTES else 0, name_of=_name_check
    )
    kept: dict[str, CommittedCase] = {}
    for count, outcome in enumerate(outcomes, start=1):
        if outcome.error is not None:
            raise outcome.error
        case_id = outcome.item.case.id
        if outcome.result:
            redone[case_id] = outcome.result
        else:
            kept[case_id] = outcome.item.committed
        listen(Progress(step=step, done=count, total=len(checks), item=case_id))
    return Reuse(kept=kept, redone=redone, removed=removed)


def _name_check(check: CaseCheck) -> str:
    return check.case.id


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} case{'s' * (len(names) != 1)}"


def _name(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f" ({', '.join(names[:_MAX_NAMED])}{more})"
