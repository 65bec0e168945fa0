"""What is known to be complete in a preprocessed data folder, and from which input it was made.

Reads and writes: `<data identifier>.manifest.json` beside the folder (nnU-Net reads every file inside).
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stu_pipeline.storage import hash_file, read_json, write_json

if TYPE_CHECKING:
    from stu_pipeline.datasets.cases import Case

SCHEMA = 1
_WRITE_INTERVAL_S = 2.0


@dataclass(frozen=True, slots=True)
class CaseSource:
    """Identifies the input of one case: a hash over all its files."""

    sha256: str

    @classmethod
    def of(cls, case: Case) -> CaseSource:
        """Hash the image and label files of a case."""
        digest = hashlib.sha256()
        for file in (*case.image_files, case.label_file):
            if file is not None:
                digest.update(f"{file.name}:{hash_file(file)}\n".encode())
        return cls(digest.hexdigest())


@dataclass(frozen=True, slots=True)
class Manifest:
    """The settings that decided the voxels, and the finished cases."""

    settings: dict[str, Any]
    cases: dict[str, CaseSource]


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest; None when there is none or it is of another schema."""
    if not path.is_file():
        return None
    document = read_json(path)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        return None
    cases = {case_id: CaseSource(entry["sha256"]) for case_id, entry in document["cases"].items()}
    return Manifest(settings=document["settings"], cases=cases)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest atomically."""
    document = {
        "schema": SCHEMA,
        "settings": manifest.settings,
        "cases": {case_id: {"sha256": source.sha256} for case_id, source in sorted(manifest.cases.items())},
    }
    write_json(path, document)


class ManifestKeeper:
    """Adds finished cases to a manifest and writes it from time to time, and when the block ends.

    Not after every case: with ten thousand cases that would be gigabytes of JSON. What a kill leaves
    unrecorded is done again.

    Args:
        path: the manifest file.
        manifest: its content so far; changed in place.
        sources: the input of every case.
    """

    def __init__(self, path: Path, manifest: Manifest, sources: dict[str, CaseSource]) -> None:
        self._path = path
        self._manifest = manifest
        self._sources = sources
        self._written_s = time.monotonic()

    def __enter__(self) -> ManifestKeeper:
        """Begin."""
        return self

    def __exit__(self, *unused: object) -> None:
        """Write what is finished, whatever ended the block."""
        write_manifest(self._path, self._manifest)

    def add(self, case_id: str) -> None:
        """Note a finished case."""
        self._manifest.cases[case_id] = self._sources[case_id]
        if time.monotonic() - self._written_s > _WRITE_INTERVAL_S:
            write_manifest(self._path, self._manifest)
            self._written_s = time.monotonic()
