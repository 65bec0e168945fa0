"""`dataset.json`, checked: channels, labels, regions, file ending.

Reads: `dataset.json` in nnU-Net v2 form.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from stu_pipeline.datasets.dataset_fields import (
    IGNORE,
    CaseFiles,
    Label,
    check_reader,
    parse_channels,
    parse_count,
    parse_ending,
    parse_labels,
    parse_listed,
    parse_order,
    values_of,
)
from stu_pipeline.errors import DataError
from stu_pipeline.storage import read_json

_REQUIRED = ("channel_names", "labels", "numTraining", "file_ending")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetJson:
    """What `dataset.json` says. Labels are integers, regions tuples of integers."""

    channel_names: dict[int, str]
    labels: dict[str, Label]
    file_ending: str
    num_training: int
    regions_class_order: tuple[int, ...] | None = None
    ignore_label: int | None = None
    listed_cases: dict[str, CaseFiles] | None = None
    """Set when the files are listed under `dataset` instead of found by name."""
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
        return tuple(sorted({value for label in self.labels.values() for value in values_of(label)}))

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
    raw = _read_without_duplicates(path)
    return parse_dataset_json(raw, path)


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
    labels: dict[str, Label] = _collect(problems, lambda: parse_labels(raw.get("labels")), {}, "labels" in raw)
    order = _collect(problems, lambda: parse_order(raw.get("regions_class_order"), labels), None, bool(labels))
    ending = _collect(problems, lambda: parse_ending(raw["file_ending"]), "", "file_ending" in raw)
    count = _collect(problems, lambda: parse_count(raw["numTraining"]), 0, "numTraining" in raw)
    listed = _collect(problems, lambda: parse_listed(raw["dataset"], path.parent), None, "dataset" in raw)
    _collect(problems, lambda: check_reader(raw), None, True)
    if problems:
        raise DataError(
            f"'{path.name}' is not valid: {problems[0]}" + (f" (and {len(problems) - 1} more)" * (len(problems) > 1)),
            where=path,
            hint='expected keys: channel_names {"0": "CT"}, labels {"background": 0, ...}, numTraining, file_ending',
            details=tuple(problems) if len(problems) > 1 else (),
        )
    ignore = labels.get(IGNORE)
    return DatasetJson(
        channel_names=channels,
        labels=labels,
        file_ending=ending,
        num_training=count,
        regions_class_order=order,
        ignore_label=ignore if isinstance(ignore, int) else None,
        listed_cases=listed,
        raw=raw,
    )


def _read_without_duplicates(path: Path) -> Any:
    read_json(path)  # raises the plain problems: not readable, not JSON

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise DataError(
                f"'{path.name}' has the key '{twice[0]}' more than once", where=path, hint="keep one of them"
            )
        return dict(pairs)

    def refuse_constant(name: str) -> Any:
        raise DataError(f"'{path.name}' holds {name}, which is not JSON", where=path)

    return json.loads(
        path.read_text(encoding="utf-8-sig"), object_pairs_hook=refuse_duplicates, parse_constant=refuse_constant
    )


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
