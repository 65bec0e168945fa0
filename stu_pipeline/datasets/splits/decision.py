"""Decide what becomes of a dataset's folds: made, kept or replaced. Folds that trainings depend on stay.

Reads: `splits_final.json` and its record beside the preprocessed data, `splits_final.json` beside the raw data.
Writes: the first two, in `write_decision` only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from stu_pipeline.datasets.splits.check import (
    check_coverage,
    check_leaks,
    find_left_out,
    find_unknown,
    list_split_cases,
)
from stu_pipeline.datasets.splits.choice import SplitRequest, choose_splits
from stu_pipeline.datasets.splits.files import Split, make_splits, read_splits, write_splits
from stu_pipeline.datasets.splits.groups import read_groups
from stu_pipeline.datasets.splits.record import SplitRecord, find_split_record, write_split_record
from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.workspace import DatasetPaths

Action = Literal["made", "kept", "replaced"]
_MAX_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitDecision:
    """The folds of a dataset and how they came about."""

    action: Action
    splits: list[Split]
    method: str
    notes: tuple[str, ...] = ()
    """What could not be had, and what should be looked at; each is worth a warning."""
    record: SplitRecord | None = None
    """None: the folds are the user's own or stock nnU-Net's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    dataset: DatasetPaths
    case_ids: Sequence[str]
    request: SplitRequest
    labels: Mapping[str, Collection[int]]
    label_names: Mapping[int, str]
    force: bool
    trained: tuple[Path, ...]
    groups: dict[str, str] = field(default_factory=dict)
    """Read once; empty without `group_by`."""


def decide_splits(
    dataset: DatasetPaths,
    case_ids: Sequence[str],
    request: SplitRequest | None = None,
    *,
    labels: Mapping[str, Collection[int]] | None = None,
    label_names: Mapping[int, str] | None = None,
    force: bool = False,
) -> SplitDecision:
    """Decide about the folds of a dataset. Writes nothing.

    Folds that are there stay, with cases added later in none of them, until others are asked for; those replace them
    only with `force` and while no fold has been trained. Own folds beside the raw data go before everything.

    Args:
        dataset: where its files are.
        case_ids: all its cases.
        request: what is asked for; None or the default takes what is there.
        labels: foreground labels present, by case; needed to stratify and for the check.
        label_names: what the labels are called.
        force: make new folds where cases were added or others are asked for.

    Raises:
        DataError: existing folds are unreadable, name cases that the dataset does not have, or tear a group apart.
        UsageError: the request cannot be met, or other folds are there.
    """
    request = request or SplitRequest()
    question = _Question(
        dataset=dataset,
        case_ids=case_ids,
        request=request,
        labels=labels or {},
        label_names=label_names or {},
        force=force,
        trained=find_trained_folds(dataset),
        groups=read_groups(request.group_by, case_ids) if request.group_by else {},
    )
    if dataset.provided_splits.is_file():
        return _check(_take_provided(question), question)
    if not dataset.splits.is_file():
        return _check(_make(question, request, question.groups, "made"), question)
    return _check(_compare(question), question)


def write_decision(dataset: DatasetPaths, decision: SplitDecision) -> None:
    """Write the folds and their record. Writing what is there already does nothing.

    Raises:
        StorageError: the files cannot be written.
    """
    if decision.action != "kept":
        write_splits(dataset.splits, decision.splits, replace=decision.action == "replaced")
    if decision.record is not None:
        write_split_record(dataset, decision.record)


def find_trained_folds(dataset: DatasetPaths) -> tuple[Path, ...]:
    """List the folders of all folds that trainings were started for, with any plan: all share the splits."""
    if not dataset.results.is_dir():
        return ()
    return tuple(sorted(folder for folder in dataset.results.glob("*/fold_*") if folder.is_dir()))


def _make(question: _Question, request: SplitRequest, groups: Mapping[str, str], action: Action) -> SplitDecision:
    choice = choose_splits(question.case_ids, request, groups=groups or None, labels=question.labels)
    record = SplitRecord(request=request, method=choice.method, notes=choice.notes, groups=groups)
    return SplitDecision(action=action, splits=choice.splits, method=choice.method, notes=choice.notes, record=record)


def _take_provided(question: _Question) -> SplitDecision:
    """Take the user's own folds: a request can only be checked against them."""
    path, request = question.dataset.provided_splits, question.request
    own = read_splits(path)
    if request.stratify or request.num_folds not in (None, len(own)):
        asked = "--stratify" if request.stratify else f"--folds {request.num_folds}"
        raise UsageError(
            f"'{path.name}' beside the raw data has {len(own)} folds of its own, so {asked} cannot be followed",
            where=path.parent,
            hint="remove the file, or leave the flag out",
        )
    if not question.dataset.splits.is_file():
        return _take_own(question, own, "made")
    in_use = read_splits(question.dataset.splits)
    if in_use == own:
        return _take_own(question, own, "kept")
    if question.force and not question.trained:
        return _take_own(question, own, "replaced")
    note = f"'{path.name}' beside the raw data differs from the one in use, which stays{_explain_stay(question)}"
    return SplitDecision(action="kept", splits=in_use, method=_describe_kept(in_use, None), notes=(note,))


def _take_own(question: _Question, own: list[Split], action: Action) -> SplitDecision:
    notes = _note_left_out(question, find_left_out(own, question.case_ids), can_remake=False)
    method = f"{len(own)} folds, as in '{question.dataset.provided_splits.name}' beside the raw data"
    return SplitDecision(action=action, splits=own, method=method, notes=notes)


def _compare(question: _Question) -> SplitDecision:
    """Set what is asked for against the folds that are there."""
    dataset, request = question.dataset, question.request
    existing, record = read_splits(dataset.splits), find_split_record(dataset)
    if request.is_default or (record and record.request == request and _agree(record.groups, question.groups)):
        return _keep(question, existing, record)
    wanted = _make(question, request, question.groups, "replaced")
    if wanted.splits == existing:
        return replace(wanted, action="kept")
    if question.trained or not question.force:
        raise UsageError(
            f"'{dataset.splits.name}' has other folds than {request.describe()} makes: "
            f"{_describe_kept(existing, record)}",
            where=dataset.splits,
            hint=_suggest_release(question) if question.trained else "--force replaces them: no fold is trained yet",
        )
    return wanted


def _keep(question: _Question, existing: list[Split], record: SplitRecord | None) -> SplitDecision:
    left_out = find_left_out(existing, question.case_ids)
    unknown = find_unknown(existing, question.case_ids)
    can_remake = not question.trained and (record is not None or _is_default(existing))
    if (left_out or unknown) and question.force and can_remake:
        request = record.request if record else SplitRequest()
        groups = read_groups(request.group_by, question.case_ids) if request.group_by else {}
        return _make(question, request, groups, "replaced")
    notes = (*(record.notes if record else ()), *_note_left_out(question, left_out, can_remake=can_remake))
    return SplitDecision(
        action="kept", splits=existing, method=_describe_kept(existing, record), notes=notes, record=record
    )


def _note_left_out(question: _Question, left_out: Sequence[str], *, can_remake: bool) -> tuple[str, ...]:
    if not left_out:
        return ()
    dataset = question.dataset
    advice = f"new folds: stu plan {dataset.name} --force"
    if not can_remake:
        advice = f"the folds stay{_explain_stay(question) or ', they are your own'}"
    count = f"{len(left_out)} of {len(question.case_ids)} cases are in no fold of '{dataset.splits.name}'"
    return (f"{count} and take no part in training or validation: {_name(left_out)}; {advice}",)


def _check(decision: SplitDecision, question: _Question) -> SplitDecision:
    """Refuse folds that leak or name unknown cases; note what they cannot learn or measure."""
    dataset = question.dataset
    unknown = find_unknown(decision.splits, question.case_ids)
    if unknown:
        is_ours = not question.trained and (decision.record is not None or _is_default(decision.splits))
        raise DataError(
            f"'{dataset.splits.name}' names {len(unknown)} cases that the dataset does not have: {_name(unknown)}",
            where=dataset.splits if dataset.splits.is_file() else dataset.provided_splits,
            hint=f"stu plan {dataset.name} --force makes new folds"
            if is_ours
            else "add the cases back, or take them out of the file",
        )
    groups = question.groups or (decision.record.groups if decision.record else {})
    leaks = check_leaks(decision.splits, groups)
    if leaks:
        raise DataError(
            leaks[0] if len(leaks) == 1 else f"'{dataset.splits.name}' leaks in {len(leaks)} places: {leaks[0]}",
            where=dataset.splits if dataset.splits.is_file() else dataset.provided_splits,
            hint="every case of a group must be in the same part of a fold",
            details=tuple(leaks) if len(leaks) > 1 else (),
        )
    notes = (*decision.notes, *check_coverage(decision.splits, question.labels, question.label_names))
    return replace(decision, notes=notes)


def _agree(recorded: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(wanted.get(case, group) == group for case, group in recorded.items())


def _is_default(splits: list[Split]) -> bool:
    return splits == make_splits(sorted(list_split_cases(splits)))


def _describe_kept(splits: list[Split], record: SplitRecord | None) -> str:
    if record is not None:
        return record.method
    if _is_default(splits):
        return f"{len(splits)} folds of {len(list_split_cases(splits))} cases, nnU-Net's default"
    return f"{len(splits)} folds of your own"


def _explain_stay(question: _Question) -> str:
    if not question.trained:
        return ""
    first = question.trained[0]
    more = f" and {len(question.trained) - 1} more" if len(question.trained) > 1 else ""
    return f": {first.parent.name}/{first.name}{more} was trained with them"


def _suggest_release(question: _Question) -> str:
    first = question.trained[0]
    return f"{first.parent.name}/{first.name} was trained with them: move {question.dataset.results} away first"


def _name(cases: Sequence[str]) -> str:
    return ", ".join(cases[:_MAX_NAMED]) + (", ..." if len(cases) > _MAX_NAMED else "")
