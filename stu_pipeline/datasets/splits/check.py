"""Check folds, made here or by the user, for leaks and for labels that a fold cannot learn or measure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from stu_pipeline.datasets.splits.files import Split

_MAX_NAMED = 5


def check_leaks(splits: Sequence[Split], groups: Mapping[str, str] | None = None) -> list[str]:
    """Find cases and groups (patients) that are in both parts of a fold: a score would count what was learned.

    A fold whose parts are the same on purpose (a single case, fold `all`) is no leak.

    Args:
        splits: the folds.
        groups: group by case; cases that are not in it stand alone.
    """
    problems = []
    for index, split in enumerate(splits):
        train, val = set(split["train"]), set(split["val"])
        if train == val:
            continue
        if both := sorted(train & val):
            problems.append(f"fold {index} has {len(both)} cases in both parts: {_name(both)}")
        owners = groups or {}
        torn = {owners[case] for case in train if case in owners} & {owners[case] for case in val if case in owners}
        for group in sorted(torn):
            cases = sorted(case for case in train | val if owners.get(case) == group)
            problems.append(f"fold {index} has group '{group}' in both parts: {_name(cases)}")
    return problems


def check_coverage(
    splits: Sequence[Split], labels: Mapping[str, Collection[int]], names: Mapping[int, str] | None = None
) -> list[str]:
    """Find labels that a fold never sees in training, and labels that no fold validates.

    Args:
        splits: the folds.
        labels: foreground labels present, by case.
        names: what the labels are called, for the messages.
    """
    problems = []
    everywhere = {label for present in labels.values() for label in present}
    for index, split in enumerate(splits):
        seen = {label for case in split["train"] for label in labels.get(case, ())}
        if missing := sorted(everywhere - seen):
            problems.append(f"fold {index} has no training case with {_name_labels(missing, names)}")
    validated = {label for split in splits for case in split["val"] for label in labels.get(case, ())}
    if unseen := sorted(everywhere - validated):
        problems.append(f"no fold validates {_name_labels(unseen, names)}")
    return problems


def find_left_out(splits: Sequence[Split], case_ids: Sequence[str]) -> list[str]:
    """List the cases that are in no fold, sorted."""
    return sorted(set(case_ids) - list_split_cases(splits))


def find_unknown(splits: Sequence[Split], case_ids: Sequence[str]) -> list[str]:
    """List the cases of the folds that the dataset does not have, sorted."""
    return sorted(list_split_cases(splits) - set(case_ids))


def list_split_cases(splits: Sequence[Split]) -> set[str]:
    """Return every case of every fold."""
    return {case for split in splits for case in (*split["train"], *split["val"])}


def _name_labels(values: Sequence[int], names: Mapping[int, str] | None) -> str:
    known = names or {}
    shown = [f"{value} '{known[value]}'" if value in known else str(value) for value in values[:_MAX_NAMED]]
    more = f" and {len(values) - _MAX_NAMED} more" if len(values) > _MAX_NAMED else ""
    return f"label{'s' * (len(values) > 1)} {', '.join(shown)}{more}"


def _name(cases: Sequence[str]) -> str:
    return ", ".join(cases[:_MAX_NAMED]) + (", ..." if len(cases) > _MAX_NAMED else "")
