"""How the folds of a dataset were made: what was asked for, the groups, and the file they are in.

Reads and writes: `splits_final.manifest.json` beside `splits_final.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from stu_pipeline.datasets.splits.choice import SplitRequest
from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.storage import hash_file, read_json, write_json
from stu_pipeline.workspace import DatasetPaths

_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRecord:
    """What a splits file was made from."""

    request: SplitRequest
    method: str
    notes: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    """Group by case; empty when every case stands alone."""


def find_split_record(dataset: DatasetPaths) -> SplitRecord | None:
    """Return the record of the splits file, or None: there is none, or the file has been changed since."""
    try:
        content = read_json(dataset.splits_record)
        if not dataset.splits.is_file() or content["splits_sha256"] != hash_file(dataset.splits):
            return None
        return SplitRecord(
            request=SplitRequest(**content["request"]),
            method=str(content["method"]),
            notes=tuple(content["notes"]),
            groups=dict(content["groups"]),
        )
    except (DataError, UsageError, KeyError, TypeError, ValueError):
        return None


def write_split_record(dataset: DatasetPaths, record: SplitRecord) -> None:
    """Write the record of the splits file as it is now. Writing what is there already does nothing."""
    content: dict[str, Any] = {
        "schema": _SCHEMA,
        "request": asdict(record.request),
        "method": record.method,
        "notes": list(record.notes),
        "groups": dict(sorted(record.groups.items())),
        "splits_sha256": hash_file(dataset.splits),
    }
    if find_split_record(dataset) != record:
        write_json(dataset.splits_record, content)
