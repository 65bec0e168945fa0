"""What a union was made of, and which of its label maps are done.

While label maps are written, each finished one is a line in the journal; at the end they are in the record.
Reads and writes: `stu_union.json` and `stu_union.jsonl` in the folder of the union.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.errors import DataError
from stu_pipeline.storage import append_line, read_json

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class LabelMark:
    """What identifies a finished label map: what it was made from and with, and what was written."""

    source: str
    """Signature of the label map of the source, taken before it was read."""
    table: str
    written: str


def union_record(folder: Path) -> Path:
    """`stu_union.json`: what a union was made of; absent for other datasets."""
    return folder / "stu_union.json"


def union_journal(folder: Path) -> Path:
    """`stu_union.jsonl`: label maps finished since the record was written; gone when nothing runs."""
    return folder / "stu_union.jsonl"


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read the record of a union; None when the folder has none.

    Raises:
        DataError: it is damaged.
    """
    path = union_record(folder)
    if not path.is_file():
        return None
    record = read_json(path)
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or not isinstance(record.get("identity"), dict):
        raise DataError(
            f"'{folder.name}' is no usable union", where=path, hint="delete this folder and make the union again"
        )
    return record


def read_marks(folder: Path) -> dict[str, LabelMark]:
    """Return the finished label maps by case, from the record and the journal; what cannot be read proves nothing."""
    record = read_record(folder) or {}
    files = record.get("files")
    lines = [{"case": case, **mark} for case, mark in files.items()] if isinstance(files, dict) else []
    journal = union_journal(folder)
    if journal.is_file():
        for text in journal.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:  # torn by a kill
                continue
    marks = {}
    for line in lines:
        try:
            marks[str(line["case"])] = LabelMark(str(line["source"]), str(line["table"]), str(line["written"]))
        except (KeyError, TypeError):
            continue
    return marks


def add_mark(folder: Path, case_id: str, mark: LabelMark) -> None:
    """Note a finished label map in the journal, flushed to the disk."""
    append_line(union_journal(folder), json.dumps({"case": case_id, **describe_mark(mark)}))


def describe_mark(mark: LabelMark) -> dict[str, str]:
    """Return what the record holds for a label map."""
    return {"source": mark.source, "table": mark.table, "written": mark.written}


def hash_content(content: Any) -> str:
    """Return the SHA-256 of JSON values as hex."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def hash_table(table: Mapping[int, int]) -> str:
    """Return a hash of the table from stored ids to labels of the union."""
    return hash_content(sorted(table.items()))
