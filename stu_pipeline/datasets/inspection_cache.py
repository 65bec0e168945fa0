"""Remember what the inspection of a sound case found, so that its voxels are read once.

A report is found again while the case's files and what `dataset.json` demands of them are the same.
Reads and writes: `<case>.npz` in a cache folder. Only numbers and text are stored, no pickled objects.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.dataset_json import DatasetJson
from stu_pipeline.datasets.signature import sign_case
from stu_pipeline.datasets.statistics import CaseStatistics, ChannelStatistics
from stu_pipeline.storage import write_atomically

if TYPE_CHECKING:
    from stu_pipeline.datasets.inspection import CaseReport

# Part of the key: reports of another way of inspecting are not found.
_VERSION = 1
_MOMENTS = ("mean", "variance", "minimum", "maximum")


def find_report(folder: Path | None, case: Case, dataset_json: DatasetJson) -> dict[str, Any] | None:
    """Return the fields of a case's `CaseReport`, or None when the case is not known as it is now."""
    path = None if folder is None else _name_file(folder, case)
    if path is None or not path.is_file():
        return None
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            document = json.loads(str(content["report"]))
            if document.pop("key") != make_key(case, dataset_json):
                return None
            return _parse(document, {name: content[name] for name in content.files if name != "report"})
    # A file that cannot be read is a file that is not there; the case is read again.
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def store_report(folder: Path, case: Case, dataset_json: DatasetJson, report: CaseReport) -> None:
    """Store the report of a sound case; it must hold statistics.

    Raises:
        StorageError: the folder cannot be written.
    """
    if report.statistics is None:
        return
    document = {
        "key": make_key(case, dataset_json),
        "case_id": report.case_id,
        "shape": report.shape,
        "spacing_mm": report.spacing_mm,
        "label_voxels": {str(value): count for value, count in report.label_voxels.items()},
        "warnings": report.warnings,
        "shape_after_crop": report.statistics.shape_after_crop,
        "relative_size": report.statistics.relative_size,
        "channels": [{name: getattr(channel, name) for name in _MOMENTS} for channel in report.statistics.channels],
    }
    arrays: dict[str, Any] = {}
    for index, channel in enumerate(report.statistics.channels):
        arrays[f"values_{index}"], arrays[f"shares_{index}"] = channel.values, channel.shares
    arrays["report"] = np.array(json.dumps(document))
    write_atomically(_name_file(folder, case), lambda temporary: np.savez(temporary, **arrays), suffix=".npz")


def make_key(case: Case, dataset_json: DatasetJson) -> str:
    """Identify a case's files and what is demanded of them."""
    file_ids = dataset_json.file_label_ids.original if dataset_json.file_label_ids else None
    demands = [_VERSION, case.id, dataset_json.num_channels, dataset_json.label_values, file_ids]
    return hashlib.sha256(f"{json.dumps(demands)}:{sign_case(case)}".encode()).hexdigest()


def _parse(document: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
    channels = tuple(
        ChannelStatistics(**moments, values=arrays[f"values_{index}"], shares=arrays[f"shares_{index}"])
        for index, moments in enumerate(document["channels"])
    )
    statistics = CaseStatistics(
        shape_after_crop=tuple(document["shape_after_crop"]),
        relative_size=document["relative_size"],
        channels=channels,
    )
    return {
        "case_id": document["case_id"],
        "shape": tuple(document["shape"]),
        "spacing_mm": tuple(document["spacing_mm"]),
        "label_voxels": {int(value): count for value, count in document["label_voxels"].items()},
        "warnings": tuple(document["warnings"]),
        "statistics": statistics,
    }


def _name_file(folder: Path, case: Case) -> Path:
    return folder / f"{case.id}.npz"
