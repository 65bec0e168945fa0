"""The file that says how labels of the sources become labels of the union.

`{"Dataset101_A": {"cord": "spinal_cord", "couch": null, "kidney": ["kidney_left", "kidney_right"]}}`: a text renames a
label, null leaves it out, and a list names the labels of the source that become one.
Reads: that JSON file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_fields import BACKGROUND, IGNORE, show_value
from stu_pipeline.datasets.dataset_json import read_strict_json
from stu_pipeline.errors import DataError

_MAX_SHOWN = 8
Renames = dict[str, str | None]
"""Old name to new name, or None where the label is not used."""


def read_union_labels(path: Path | None) -> Any:
    """Read the mapping file as it is; an empty object when there is none.

    Raises:
        DataError: not there, or not JSON.
    """
    if path is None:
        return {}
    if not path.is_file():
        raise DataError(f"'{path.name}' not found", where=path.parent, hint="check the path of the mapping file")
    return read_strict_json(path)


def parse_union_labels(
    content: Any, label_names: Mapping[str, Collection[str]]
) -> tuple[dict[str, Renames], list[str]]:
    """Check a mapping against the labels of the sources.

    Args:
        content: what the file holds.
        label_names: name of each source to its foreground labels.

    Returns:
        The renames of each source, and every problem found, one sentence each.
    """
    if not isinstance(content, dict):
        return {}, [f"the mapping must be an object: source to labels, found {show_value(content)}"]
    renames: dict[str, Renames] = {}
    problems: list[str] = []
    for source, labels in content.items():
        if source not in label_names:
            problems.append(f"the mapping names {show_value(source)}, the sources are {_list_some(label_names)}")
        elif not isinstance(labels, dict):
            problems.append(f"the mapping of '{source}' must be an object: old to new name, found {show_value(labels)}")
        else:
            renames[source] = _parse_source(source, labels, label_names[source], problems)
    return renames, problems


def _parse_source(source: str, labels: Mapping[str, Any], known: Collection[str], problems: list[str]) -> Renames:
    renames: Renames = {}
    for key, value in labels.items():
        # A list is written the other way round: the new name, and what becomes it.
        olds, new = (value, key) if isinstance(value, list) else ([key], value)
        if not olds or not all(isinstance(old, str) for old in olds):
            problems.append(f"the mapping of '{source}' to {show_value(key)} must list names of labels")
            continue
        if problem := _check_new(new):
            problems.append(f"the mapping of '{source}' makes {show_value(olds[0])} {problem}")
            continue
        for old in olds:
            if old not in known:
                problems.append(f"the mapping names label {show_value(old)}, '{source}' has {_list_some(known)}")
            elif old in renames:
                problems.append(f"the mapping of '{source}' names label '{old}' twice")
            else:
                renames[old] = new
    return renames


def _check_new(new: Any) -> str:
    if new is None:
        return ""
    if not isinstance(new, str) or not new.strip() or not new.isprintable():
        return f"{show_value(new)}, expected a name or null"
    if new.casefold() == BACKGROUND:
        return f"'{new}': a label that is not used is mapped to null"
    if new.casefold() == IGNORE and new != IGNORE:
        return f"{show_value(new)}, expected '{IGNORE}' in lower case, or another name"
    return ""


def _list_some(names: Collection[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in list(names)[:_MAX_SHOWN])
    return shown + (f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else "")
