"""What is known about the cases in a preprocessed data folder: from which input, with which settings, which bytes.

While a run works, each finished case is a line in the journal, flushed to the disk; at the end the journal is
folded into the manifest, sorted, so that equal data has equal manifests however often the run was killed.
Reads and writes: `<data identifier>.manifest.json` and `.jsonl` beside the folder (nnU-Net reads every file inside).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.errors import DataError
from stu_pipeline.storage import append_line, read_json, write_json

SCHEMA = 2


@dataclass(frozen=True, slots=True)
class FileMark:
    """What identifies the content of a file."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedCase:
    """A case whose files are complete under their final names."""

    case_id: str
    source: str
    """`sign_case` of its input, taken before the input was read."""
    files: dict[str, FileMark]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What decides the content of a data folder besides the images."""

    settings: dict[str, Any]
    """`preprocessing_settings` of the configuration; plans with equal ones share a folder."""
    engine: int
    """Version of our preprocessing: another one may give other bytes."""
    labels: dict[str, Any]
    """The classes whose voxels are listed with each case, and the ids in the label files."""

    @property
    def sha256(self) -> str:
        """A hash that stands for the stamp in the journal."""
        return hashlib.sha256(json.dumps(_describe_stamp(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of a manifest. `stamp` is None when the file is damaged or of an older schema."""

    stamp: Stamp | None
    cases: dict[str, CommittedCase]


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest; None when there is none. One that cannot be read proves nothing and has no cases."""
    if not path.is_file():
        return None
    try:
        document = read_json(path)
        if document["schema"] != SCHEMA:
            return Manifest(stamp=None, cases={})
        stamp = Stamp(
            settings=dict(document["settings"]), engine=int(document["engine"]), labels=dict(document["labels"])
        )
        cases = {str(case_id): _parse_case(case_id, entry) for case_id, entry in document["cases"].items()}
    except (DataError, KeyError, TypeError, ValueError, AttributeError):
        return Manifest(stamp=None, cases={})
    return Manifest(stamp=stamp, cases=cases)


def write_manifest(path: Path, stamp: Stamp, cases: Mapping[str, CommittedCase]) -> None:
    """Write a manifest atomically; the order of `cases` does not matter.

    Raises:
        StorageError: the disk is full or not writable.
    """
    write_json(path, describe_manifest(stamp, cases))


def describe_manifest(stamp: Stamp, cases: Mapping[str, CommittedCase]) -> dict[str, Any]:
    """Return what a manifest file holds, as JSON values."""
    entries = {case_id: _describe_case(cases[case_id]) for case_id in sorted(cases)}
    return {"schema": SCHEMA, **_describe_stamp(stamp), "cases": entries}


def append_case(path: Path, stamp: Stamp, case: CommittedCase) -> None:
    """Add a finished case to a journal; when this returns, the case is safe.

    Raises:
        StorageError: the disk is full or not writable.
    """
    entry = {"case": case.case_id, "stamp": stamp.sha256, **_describe_case(case)}
    append_line(path, json.dumps(entry, ensure_ascii=False))


def read_journal(path: Path, stamp: Stamp) -> dict[str, CommittedCase]:
    """Read the cases that a journal holds for one stamp; later lines win, torn and foreign lines are skipped."""
    if not path.is_file():
        return {}
    cases: dict[str, CommittedCase] = {}
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
            if entry["stamp"] == stamp.sha256:
                cases[str(entry["case"])] = _parse_case(str(entry["case"]), entry)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return cases


def _describe_stamp(stamp: Stamp) -> dict[str, Any]:
    return {"settings": stamp.settings, "engine": stamp.engine, "labels": stamp.labels}


def _describe_case(case: CommittedCase) -> dict[str, Any]:
    marks = {name: [mark.num_bytes, mark.sha256] for name, mark in sorted(case.files.items())}
    return {"source": case.source, "files": marks}


def _parse_case(case_id: str, entry: Mapping[str, Any]) -> CommittedCase:
    files = {str(name): FileMark(int(size), str(sha256)) for name, (size, sha256) in entry["files"].items()}
    if not files or any(Path(name).name != name for name in files):
        raise ValueError(f"case '{case_id}' has no files, or files in other folders")
    return CommittedCase(case_id=str(case_id), source=str(entry["source"]), files=files)
