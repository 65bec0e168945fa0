"""Keep the dataset fingerprint: measured once, reused while the cases are the same files.

Reads: `dataset_fingerprint.json` and `dataset_fingerprint.manifest.json` beside the preprocessed data.
Writes: both, atomically; the manifest last, so that a fingerprint with a manifest is a finished one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.dataset_json import DatasetJson
from stu_pipeline.errors import DataError
from stu_pipeline.log import Listener, Notice, ignore_events
from stu_pipeline.storage import read_json, write_json
from stu_pipeline.workspace import DatasetPaths

_SCHEMA = 1
_SAMPLE_BYTES = 64 * 1024
# Below this, starting workers (seconds each) takes longer than the reading.
_SMALL_DATASET_BYTES = 64 * 2**20
_MAX_WORKERS = 8
# From ten million voxels on this is nnU-Net's own number of samples.
_SAMPLES_PER_VOXEL = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """The content of `dataset_fingerprint.json`, and the nnU-Net reader it was measured with."""

    content: dict[str, Any]
    reader_name: str


def sign_sources(cases: Sequence[Case], dataset_json: DatasetJson) -> dict[str, Any]:
    """Describe what a fingerprint is measured from.

    Every file of every case counts by its size and the SHA-256 of its first and last 64 KiB.
    """
    return {
        "file_ending": dataset_json.file_ending,
        "wanted_reader": dataset_json.raw.get("overwrite_image_reader_writer"),
        "num_channels": dataset_json.num_channels,
        "cases": {case.id: _sign_case(case) for case in sorted(cases, key=lambda case: case.id)},
    }


def find_fingerprint(dataset: DatasetPaths, sources: Mapping[str, Any]) -> Fingerprint | None:
    """Return the stored fingerprint when it was measured from exactly these files, else None."""
    manifest = _read_or_none(dataset.fingerprint_manifest)
    content = _read_or_none(dataset.fingerprint)
    if not isinstance(manifest, dict) or not isinstance(content, dict) or "reader_name" not in manifest:
        return None
    found = Fingerprint(content=content, reader_name=manifest["reader_name"])
    return found if manifest == _describe(found, sources) else None


def measure_fingerprint(
    cases: Sequence[Case],
    dataset_json: DatasetJson,
    *,
    num_voxels: int,
    num_workers: int,
    log_path: Path | None = None,
    listen: Listener = ignore_events,
) -> Fingerprint:
    """Measure the fingerprint with nnU-Net's analysis. Writes nothing.

    Args:
        cases: the training cases, checked before: readers say little about damaged files.
        dataset_json: the dataset's description.
        num_voxels: image voxels in all; toy data is not sampled a hundred million times.
        num_workers: processes; with less than two the work is done here.
        log_path: where the engine's words go.
        listen: receives one `Progress` per case.

    Raises:
        DataError: cases that cannot be read, or no foreground at all.
        MemoryLimitError: a worker died.
    """
    from stu_pipeline.nnunet.fingerprint import NUM_SAMPLES, extract_fingerprint
    from stu_pipeline.nnunet.planner import find_reader_name

    reader_name = find_reader_name(dataset_json.raw, cases[0].image_files[0], log_path=log_path)
    content = extract_fingerprint(
        cases,
        reader_name,
        num_workers=num_workers,
        num_samples=min(NUM_SAMPLES, _SAMPLES_PER_VOXEL * num_voxels),
        log_path=log_path,
        listen=listen,
    )
    return Fingerprint(content=content, reader_name=reader_name)


def store_fingerprint(
    dataset: DatasetPaths, fingerprint: Fingerprint, sources: Mapping[str, Any], *, listen: Listener = ignore_events
) -> None:
    """Write a fingerprint and what it was measured from. Writing what is there already does nothing."""
    path = dataset.fingerprint
    if find_fingerprint(dataset, sources) == fingerprint:
        return
    if path.is_file() and _read_or_none(path) != fingerprint.content:
        listen(Notice(text="the dataset has changed since its fingerprint was measured: measured again"))
    write_json(path, fingerprint.content)
    write_json(dataset.fingerprint_manifest, _describe(fingerprint, sources))


def choose_num_workers(wanted: int | None, cases: Sequence[Case]) -> int:
    """Choose how many processes read the cases; 0 means this one."""
    from stu_pipeline.nnunet.environment import count_usable_cores

    if wanted is not None:
        return wanted
    files = [file for case in cases for file in (*case.image_files, case.label_file) if file is not None]
    if sum(file.stat().st_size for file in files) < _SMALL_DATASET_BYTES:
        return 0
    return max(1, min(count_usable_cores(), len(cases), _MAX_WORKERS))


def _sign_case(case: Case) -> str:
    digest = hashlib.sha256()
    for file in (*case.image_files, case.label_file):
        if file is not None:
            digest.update(f"{file.name}:{_sign_file(file)}\n".encode())
    return digest.hexdigest()


def _sign_file(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            digest.update(stream.read(_SAMPLE_BYTES))
            stream.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(stream.read(_SAMPLE_BYTES))
    except OSError as error:
        raise DataError(f"'{path.name}' cannot be read: {error.strerror}", where=path.parent) from error
    return f"{size}:{digest.hexdigest()}"


def _describe(fingerprint: Fingerprint, sources: Mapping[str, Any]) -> dict[str, Any]:
    # The content's own hash: another tool may have replaced the file since.
    text = json.dumps(fingerprint.content, sort_keys=True)
    return {
        "schema": _SCHEMA,
        "reader_name": fingerprint.reader_name,
        "fingerprint_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "sources": dict(sources),
    }


def _read_or_none(path: Path) -> Any:
    try:
        return read_json(path)
    except DataError:
        return None
