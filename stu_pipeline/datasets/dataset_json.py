"""`dataset.json`, checked: channels, labels, regions, file ending.

Reads: `dataset.json` in nnU-Net v2 form.
"""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from stu_pipeline.datasets.dataset_fields import (
    IGNORE,
    CaseFiles,
    Label,
    check_reader,
    list_values,
    parse_channels,
    parse_count,
    parse_ending,
    parse_label_ids,
    parse_labels,
    parse_listed,
    parse_order,
    values_of,
)
from stu_pipeline.datasets.label_ids import LABEL_IDS_KEY, LabelIds
from stu_pipeline.errors import DataError

_REQUIRED = ("channel_names", "labels", "numTraining", "file_ending")
_MAX_DEPTH = 50
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetJson:
    """What `dataset.json` says. Labels are consecutive integers, regions tuples of them."""

    channel_names: dict[int, str]
    labels: dict[str, Label]
    file_ending: str
    num_training: int
    """What the file says; the number of cases that are there may be another."""
    regions_class_order: tuple[int, ...] | None = None
    ignore_label: int | None = None
    listed_cases: dict[str, CaseFiles] | None = None
    """Set when the files are listed under `dataset` instead of found by name."""
    label_ids: LabelIds | None = None
    """The ids predictions are written with; None when they are consecutive."""
    file_label_ids: LabelIds | None = None
    """The ids in the label files beside this `dataset.json`, where they must be mapped on reading.

    None when the files hold consecutive ids: without gaps, in preprocessed data, and in every folder whose
    `dataset.json` carries the key `stu_label_ids`."""
    engine_description: dict[str, Any] = field(default_factory=dict)
    """What the engine and the preprocessed data get: a copy of `raw` with consecutive labels and, when they
    differ from the dataset's, those under `stu_label_ids`."""
    raw: dict[str, Any] = field(default_factory=dict)

    @property
    def num_channels(self) -> int:
        """Number of input channels."""
        return len(self.channel_names)

    @property
    def has_regions(self) -> bool:
        """Whether any label is a region (a union of label values)."""
        return any(isinstance(value, tuple) for value in self.labels.values())

    @property
    def label_values(self) -> tuple[int, ...]:
        """Every value a label map may hold, ascending, background and ignore label included."""
        return tuple(list_values(self.labels))

    @property
    def stored_label_ids(self) -> tuple[int, ...]:
        """What the label files beside this `dataset.json` hold for each of `label_values`."""
        return self.label_values if self.file_label_ids is None else self.file_label_ids.original

    @property
    def foreground_values(self) -> tuple[int, ...]:
        """Every value but background and the ignore label."""
        return tuple(value for value in self.label_values if value not in (0, self.ignore_label))

    def find_name(self, value: int) -> str:
        """Return the name of a label value; of several regions the smallest that holds it."""
        names = sorted(
            (len(values_of(label)), name) for name, label in self.labels.items() if value in values_of(label)
        )
        return names[0][1] if names else str(value)

    def describe_for_engine(self, num_cases: int) -> dict[str, Any]:
        """Return a copy of `engine_description` with the number of cases that are really there."""
        return {**copy.deepcopy(self.engine_description), "numTraining": num_cases}

    def describe_original(self) -> dict[str, Any]:
        """Return a copy of `raw` with the ids of the dataset, as they are in its masks, and no table of ids."""
        content = {key: value for key, value in copy.deepcopy(self.raw).items() if key != LABEL_IDS_KEY}
        if self.label_ids is None or LABEL_IDS_KEY not in self.raw:
            return content
        original = self.label_ids.original
        content["labels"] = {
            name: [original[value] for value in label] if isinstance(label, list) else original[label]
            for name, label in content["labels"].items()
        }
        if self.regions_class_order is not None:
            content["regions_class_order"] = [original[value] for value in self.regions_class_order]
        return content


def read_dataset_json(path: Path) -> DatasetJson:
    """Read and check a `dataset.json` (or the folder that holds it).

    Raises:
        DataError: missing, not JSON, or not a valid description; all problems are in `details`.
    """
    path = path / "dataset.json" if path.is_dir() else path
    if not path.is_file():
        raise DataError(
            f"'{path.name}' not found", where=path.parent, hint="a dataset needs dataset.json, imagesTr and labelsTr"
        )
    raw = read_strict_json(path)
    return parse_dataset_json(raw, path)


def read_strict_json(path: Path) -> Any:
    """Read JSON as it is defined: no key twice, no NaN, no number that overflows, no bottomless nesting.

    Raises:
        DataError: missing, unreadable, or not such JSON.
    """

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise DataError(
                f"'{path.name}' has the key '{twice[:80]}' more than once", where=path, hint="keep one of them"
            )
        return content

    def refuse_constant(name: str) -> Any:
        raise DataError(f"'{path.name}' holds {name}, which is not JSON", where=path)

    def read_float(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise DataError(f"'{path.name}' holds {text[:80]}, which is no usable number", where=path)
        return value

    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(
            text,
            object_pairs_hook=refuse_duplicates,
            parse_constant=refuse_constant,
            parse_float=read_float,
        )
    except UnicodeDecodeError as error:
        raise DataError(f"'{path.name}' is not valid JSON: it is not UTF-8 text", where=path) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"'{path.name}' is not valid JSON: {error}", where=path) from error
    except OSError as error:
        raise DataError(f"'{path.name}' cannot be read: {error.strerror}", where=path) from error
    _require_shallow(content, path)
    if "\\ud" in text.lower() and not _can_be_encoded(content):
        raise DataError(f"'{path.name}' holds half a character (an unpaired surrogate)", where=path)
    return content


def parse_dataset_json(raw: Any, path: Path) -> DatasetJson:
    """Check the content of a `dataset.json` that was already read; `path` is for messages and relative files.

    Raises:
        DataError: as `read_dataset_json`.
    """
    if not isinstance(raw, dict):
        raise DataError(f"'{path.name}' must hold an object, found a {type(raw).__name__}", where=path)
    if hint := _recognise_v1(raw):
        raise DataError(f"'{path.name}' is in the old nnU-Net v1 or MSD form", where=path, hint=hint)
    problems = [f"key '{key}' is missing" for key in _REQUIRED if key not in raw]
    channels: dict[int, str] = _collect(
        problems, lambda: parse_channels(raw.get("channel_names")), {}, "channel_names" in raw
    )
    written: dict[str, Label] = _collect(problems, lambda: parse_labels(raw.get("labels")), {}, "labels" in raw)
    ids = _collect(problems, lambda: parse_label_ids(raw, written), None, bool(written))
    order = _collect(problems, lambda: parse_order(raw.get("regions_class_order"), written), None, bool(written))
    ending = _collect(problems, lambda: parse_ending(raw["file_ending"]), "", "file_ending" in raw)
    count = _collect(problems, lambda: parse_count(raw["numTraining"]), 0, "numTraining" in raw)
    listed = _collect(problems, lambda: parse_listed(raw["dataset"], path.parent), None, "dataset" in raw)
    _collect(problems, lambda: check_reader(raw), None, True)
    if problems:
        raise _invalid(path, problems)
    file_ids = None if LABEL_IDS_KEY in raw else ids
    labels, order = _renumber(written, order, file_ids)
    ignore = labels.get(IGNORE)
    return DatasetJson(
        channel_names=channels,
        labels=labels,
        file_ending=ending,
        num_training=count,
        regions_class_order=order,
        ignore_label=ignore if isinstance(ignore, int) else None,
        listed_cases=listed,
        label_ids=ids,
        file_label_ids=file_ids,
        engine_description=_describe_for_engine(raw, labels, order, file_ids),
        raw=raw,
    )


def _can_be_encoded(content: Any) -> bool:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _require_shallow(raw: object, path: Path) -> None:
    """Refuse what is nested deeper than any description is, before anything walks it recursively."""
    waiting = [(raw, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise DataError(f"'{path.name}' is nested more than {_MAX_DEPTH} levels deep", where=path)
        if isinstance(value, (dict, list)):
            parts = value.values() if isinstance(value, dict) else value
            waiting += [(part, depth + 1) for part in parts if isinstance(part, (dict, list))]


def _invalid(path: Path, problems: list[str]) -> DataError:
    return DataError(
        f"'{path.name}' is not valid: {problems[0]}" + (f" (and {len(problems) - 1} more)" * (len(problems) > 1)),
        where=path,
        hint='expected keys: channel_names {"0": "CT"}, labels {"background": 0, ...}, numTraining, file_ending',
        details=tuple(problems) if len(problems) > 1 else (),
    )


def _renumber(
    labels: dict[str, Label], order: tuple[int, ...] | None, ids: LabelIds | None
) -> tuple[dict[str, Label], tuple[int, ...] | None]:
    """Replace original ids by consecutive ones."""
    if ids is None:
        return labels, order
    place = {original: value for value, original in enumerate(ids.original)}
    renumbered: dict[str, Label] = {
        name: tuple(place[value] for value in label) if isinstance(label, tuple) else place[label]
        for name, label in labels.items()
    }
    return renumbered, None if order is None else tuple(place[value] for value in order)


def _describe_for_engine(
    raw: Mapping[str, Any], labels: Mapping[str, Label], order: tuple[int, ...] | None, ids: LabelIds | None
) -> dict[str, Any]:
    description = copy.deepcopy(dict(raw))
    if ids is None:
        return description
    description["labels"] = {
        name: list(label) if isinstance(label, tuple) else [label] if isinstance(raw["labels"][name], list) else label
        for name, label in labels.items()
    }
    if order is not None:
        description["regions_class_order"] = list(order)
    description[LABEL_IDS_KEY] = list(ids.original)
    return description


def _collect(problems: list[str], parse: Callable[[], T], fallback: T, condition: bool) -> T:
    """Run one parser; a `ValueError` of ours becomes a line in `problems`."""
    if not condition:
        return fallback
    try:
        return parse()
    except ValueError as error:
        problems.append(str(error))
        return fallback


def _recognise_v1(raw: Mapping[str, Any]) -> str:
    labels = raw.get("labels")
    is_inverted = (
        isinstance(labels, dict)
        and bool(labels)
        and all(key.isdigit() and isinstance(name, str) and not name.isdigit() for key, name in labels.items())
    )
    if is_inverted:
        return 'turn labels round to {"background": 0, "liver": 1} and rename "modality" to "channel_names"'
    if "modality" in raw and "channel_names" not in raw:
        return 'rename "modality" to "channel_names" and add "file_ending": ".nii.gz"'
    return ""
