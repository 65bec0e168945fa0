"""What is known of one cell: what it was asked for, how it stands, what it came to.

Reads and writes: `cells/<cell>.json` of the study.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stu_pipeline.errors import DataError
from stu_pipeline.records import describe, read_versions
from stu_pipeline.storage import hash_file, read_json, write_json
from stu_pipeline.study.cells import Cell
from stu_pipeline.study.config import CellState, CellStatus

_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord:
    """The content of a cell's record."""

    state: Literal["started", "done", "failed"]
    digest: str
    """Of everything that decides the result; another one is another cell."""
    asked: dict[str, Any]
    """What `digest` was made from."""
    summary_sha256: str = ""
    run_folder: str = ""
    elapsed_s: float = 0.0
    """Of all parts of the run together, preparation included; a part that was killed is not in it."""
    mean_dice: float | None = None
    flags: tuple[str, ...] = ()
    error: str = ""
    exit_code: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


def make_digest(asked: dict[str, Any]) -> str:
    """Return the SHA-256 of what a cell was asked for."""
    return hashlib.sha256(json.dumps(describe(asked), sort_keys=True).encode()).hexdigest()


def write_cell_record(path: Path, record: CellRecord) -> None:
    """Write the record of a cell atomically."""
    written = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    write_json(path, {"schema": _SCHEMA, "written": written, "versions": read_versions(), **describe(record)})


def find_cell_record(path: Path) -> CellRecord | None:
    """Return the record of a cell; None when there is none, or it cannot be read."""
    try:
        content = read_json(path)
        values = {name: content[name] for name in CellRecord.__dataclass_fields__}
        return CellRecord(**{**values, "flags": tuple(values["flags"])})
    except (DataError, KeyError, TypeError):
        return None


def is_proven(record: CellRecord, summary: Path) -> bool:
    """Tell whether a cell is done and its scores are the ones that it wrote."""
    return record.state == "done" and summary.is_file() and hash_file(summary) == record.summary_sha256


def describe_cell(cell: Cell, record: CellRecord | None, *, digest: str | None, summary: Path) -> CellStatus:
    """Say how a cell stands.

    Args:
        cell: which.
        record: what it wrote; None: it was never begun.
        digest: of what the manifest asks for now; None when that cannot be told yet.
        summary: its scores.
    """
    state: CellState = "todo"
    if record is not None:
        state = record.state
        if digest is not None and record.digest != digest:
            state = "changed"
        elif record.state == "done" and not is_proven(record, summary):
            state = "started"  # the training is there; its scores are made again
    return CellStatus(
        name=cell.name,
        dataset=cell.dataset,
        arm=cell.arm,
        scale=cell.scale,
        num_training_cases=cell.split.num_training_cases,
        fold=cell.split.fold,
        seed=cell.split.seed,
        state=state,
        mean_dice=record.mean_dice if record and state == "done" else None,
        elapsed_s=record.elapsed_s if record and record.elapsed_s else None,
        flags=record.flags if record and state == "done" else (),
        error=record.error if record and state == "failed" else "",
    )
