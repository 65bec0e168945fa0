"""`run.json`: what was run, with which versions, inputs and command line.

Writes: a JSON file beside the outputs of a run.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import math
import platform
import sys
from pathlib import Path
from typing import Any

from stu_pipeline.storage import hash_file, write_json

SCHEMA = 1
_PACKAGES = ("stu-pipeline", "nnunetv2", "torch", "numpy", "SimpleITK", "batchgeneratorsv2", "acvl-utils")


def write_record(
    path: Path, *, stage: str, config: object, inputs: dict[str, Path] | None = None, **facts: Any
) -> None:
    """Write the record of a run atomically.

    Args:
        path: the `run.json` to write.
        stage: `plan`, `train`, `predict` or `evaluate`.
        config: the stage's config dataclass, stored verbatim.
        inputs: files whose SHA-256 identifies what went in, by a short name.
        facts: anything else worth keeping, JSON values.
    """
    record = {
        "schema": SCHEMA,
        "stage": stage,
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command_line": list(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": read_versions(),
        "config": describe(config),
        "inputs": {name: {"path": str(file), "sha256": hash_file(file)} for name, file in (inputs or {}).items()},
        **{name: describe(value) for name, value in facts.items()},
    }
    write_json(path, record)


def read_versions() -> dict[str, str]:
    """Return the installed versions of the packages that decide results."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def describe(value: Any) -> Any:
    """Turn dataclasses, paths, tuples and NumPy scalars into plain JSON values; NaN becomes None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [describe(item) for item in value]
    return _describe_scalar(value)


def _describe_scalar(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):  # a NumPy scalar
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
