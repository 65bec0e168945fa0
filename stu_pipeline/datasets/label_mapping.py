"""Which labels of one thing are which labels of another: one JSON file, for scores and for heads.

Reads: a label mapping (docs/reference/label-mapping.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_json import read_strict_json
from stu_pipeline.datasets.label_names import find_nearest_names, read_plain_names
from stu_pipeline.errors import DataError

SCHEMA = 1
_KEYS = frozenset({"schema", "labels", "comment"})
_ENTRY_KEYS = frozenset({"prediction", "reference", "allow_side_change"})
_HINT = 'a mapping is {"schema": 1, "labels": {"kidney": ["kidney_left", "kidney_right"]}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedLabel:
    """One common label: the labels of either side that belong to it."""

    name: str
    prediction: tuple[str, ...]
    """Empty where a head starts anew."""
    reference: tuple[str, ...]
    may_change_side: bool = False
    """Whether left may become right: the user says so."""


def read_label_mapping(
    path: Path, *, prediction: Mapping[str, Collection[int]], reference: Mapping[str, Collection[int]]
) -> tuple[MappedLabel, ...]:
    """Read which predicted labels are compared with which reference labels, and check it against both label lists.

    Several labels of one side are taken together. Two common labels may share voxels only where they share them on
    both sides, as nested regions do.

    Args:
        path: the mapping.
        prediction: names and voxel values of the predicted labels, regions included, without background.
        reference: the same of the reference.

    Raises:
        DataError: not such a file, names that are not there, labels used twice, left for right; all problems are
            listed.
    """
    entries, problems = _read_entries(path)
    for entry in entries:
        problems += _check_names(entry.name, "prediction", entry.prediction, prediction)
        problems += _check_names(entry.name, "reference", entry.reference, reference)
        problems += _check_sides(entry)
        if not entry.prediction:
            problems.append(f"'{entry.name}' takes no predicted label")
    known = [
        entry
        for entry in entries
        if set(entry.prediction) <= prediction.keys() and set(entry.reference) <= reference.keys()
    ]
    problems += _check_overlaps(known, prediction, reference)
    _require_none(problems, path)
    return tuple(entries)


def read_head_mapping(path: Path, source_names: Sequence[str], target_names: Sequence[str]) -> dict[str, str | None]:
    """Read which outputs of trained weights the outputs of a new network start from.

    The same file: `reference` is the new dataset, `prediction` the weights. One to one only; `null` starts an output
    anew.

    Args:
        path: the mapping.
        source_names: outputs of the weights.
        target_names: outputs of the new network.

    Returns:
        Target name to source name, None for an output that starts anew. Outputs that are not in it are left to their
        names.

    Raises:
        DataError: as for `read_label_mapping`, or a label is mapped to several.
    """
    entries, problems = _read_entries(path)
    for entry in entries:
        problems += _check_names(entry.name, "weights", entry.prediction, source_names)
        problems += _check_names(entry.name, "dataset", entry.reference, target_names)
        problems += _check_sides(entry)
        if len(entry.prediction) > 1 or len(entry.reference) > 1:
            problems.append(f"'{entry.name}' maps several labels, a head takes one")
    problems += _check_twice("weights", (name for entry in entries for name in entry.prediction))
    problems += _check_twice("dataset", (name for entry in entries for name in entry.reference))
    _require_none(problems, path)
    return {entry.reference[0]: next(iter(entry.prediction), None) for entry in entries}


def _read_entries(path: Path) -> tuple[list[MappedLabel], list[str]]:
    """Read the entries that can be understood, and what is wrong with the others."""
    content = read_strict_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
        raise DataError(f"'{path.name}' is no label mapping: it has no table 'labels'", where=path, hint=_HINT)
    problems = [f"key '{key}' is unknown" for key in content if key not in _KEYS]
    if content.get("schema") != SCHEMA or isinstance(content.get("schema"), bool):
        problems.append(f"'schema' must be {SCHEMA}, found {content.get('schema')!r}")
    if not content["labels"]:
        problems.append("'labels' is empty")
    entries = []
    for name, value in content["labels"].items():
        wrong = _check_form(name, value)
        problems += wrong
        if not wrong:
            entries.append(_parse_entry(name, value))
    return entries, problems


def _check_form(name: str, value: Any) -> list[str]:
    if not name.strip():
        return ["a label has an empty name"]
    if not isinstance(value, dict):
        return [] if value is None else _check_list(name, "prediction", value)
    problems = [f"'{name}' has the unknown key '{key}'" for key in value if key not in _ENTRY_KEYS]
    if "prediction" not in value:
        problems.append(f"'{name}' has no 'prediction'")
    for side in ("prediction", "reference"):
        if value.get(side) is not None:
            problems += _check_list(name, side, value[side])
    if not isinstance(value.get("allow_side_change", False), bool):
        problems.append(f"'allow_side_change' of '{name}' must be true or false")
    return problems


def _check_list(name: str, side: str, value: Any) -> list[str]:
    names = value if isinstance(value, list) else [value]
    if not names:
        return [f"'{name}' has an empty list for its {side}"]
    if not all(isinstance(item, str) and item.strip() for item in names):
        return [f"the {side} of '{name}' must be a name or a list of names, found {value!r}"]
    return [f"the {side} of '{name}' has '{item}' twice" for item, count in Counter(names).items() if count > 1]


def _parse_entry(name: str, value: Any) -> MappedLabel:
    form = value if isinstance(value, dict) else {"prediction": value}
    return MappedLabel(
        name=name,
        prediction=_list_names(form["prediction"]),
        reference=_list_names(form.get("reference")) or (name,),
        may_change_side=form.get("allow_side_change", False),
    )


def _list_names(value: Any) -> tuple[str, ...]:
    return () if value is None else tuple(value) if isinstance(value, list) else (value,)


def _check_names(entry: str, role: str, names: Iterable[str], known: Collection[str]) -> list[str]:
    problems = []
    for name in names:
        if name in known:
            continue
        nearest = ", ".join(f"'{item}'" for item in find_nearest_names(name, known))
        problems.append(f"'{entry}': no label '{name}' in the {role}" + (f", nearest: {nearest}" if nearest else ""))
    return problems


def _check_sides(entry: MappedLabel) -> list[str]:
    plain = read_plain_names([*entry.prediction, *entry.reference])
    predicted, marked = ({plain[name].side for name in names} - {None} for names in (entry.prediction, entry.reference))
    if entry.may_change_side or not predicted or not marked or predicted == marked:
        return []
    return [
        f"'{entry.name}' takes {_show_names(entry.prediction)} for {_show_names(entry.reference)}, another side "
        '(if that is meant: "allow_side_change": true)'
    ]


def _check_overlaps(
    entries: Sequence[MappedLabel], prediction: Mapping[str, Collection[int]], reference: Mapping[str, Collection[int]]
) -> list[str]:
    """Find voxels that would count for two labels on one side and for one on the other."""
    problems = []
    for first, second in combinations(entries, 2):
        predicted = _join(first.prediction, prediction) & _join(second.prediction, prediction)
        marked = _join(first.reference, reference) & _join(second.reference, reference)
        if _join(first.reference, reference) == _join(second.reference, reference):
            problems.append(f"'{first.name}' and '{second.name}' are the same labels of the reference")
        elif bool(predicted) != bool(marked):
            shared, apart = ("prediction", "reference") if predicted else ("reference", "prediction")
            problems.append(f"'{first.name}' and '{second.name}' share labels of the {shared}, but none of the {apart}")
    return problems


def _join(names: Iterable[str], values: Mapping[str, Collection[int]]) -> set[int]:
    return {value for name in names for value in values[name]}


def _check_twice(role: str, names: Iterable[str]) -> list[str]:
    return [
        f"label '{name}' of the {role} is used {count} times" for name, count in Counter(names).items() if count > 1
    ]


def _require_none(problems: Sequence[str], path: Path) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(
            f"label mapping '{path.name}' cannot be used: {problems[0]}{more}",
            where=path,
            hint=_HINT,
            details=tuple(problems) if len(problems) > 1 else (),
        )


def _show_names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
