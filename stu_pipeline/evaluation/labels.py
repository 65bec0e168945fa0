"""Which labels and regions are scored, and under which key `summary.json` names them.

Reads: `dataset.json`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.label_ids import LABEL_IDS_KEY, MAX_LABEL, LabelIds, check_label_ids, make_label_ids
from stu_pipeline.errors import DataError
from stu_pipeline.storage import read_json

IGNORE_NAME = "ignore"
_NAME = "dataset.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One label or region to score.

    Args:
        key: its name in `summary.json`: `3` for a label, `(1, 2)` for a region, as nnU-Net spells them.
        name: what a reader calls it.
        values: the voxel values that belong to it; several for a region.
    """

    key: str
    name: str
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSet:
    """The labels of a dataset: what is scored, and the reference value that excludes a voxel (`ignore`)."""

    labels: tuple[Label, ...]
    ignore: int | None = None

    @property
    def known_values(self) -> frozenset[int]:
        """Every value a label map may hold, background and ignore value included."""
        known = {0, *(value for label in self.labels for value in label.values)}
        return frozenset(known if self.ignore is None else known | {self.ignore})


def read_labels(path: Path) -> LabelSet:
    """Read the labels of a `dataset.json`: nnU-Net v2 (`{"liver": 1}`) or MSD and v1 (`{"1": "liver"}`).

    Their values are the dataset's own ids, also where the file holds consecutive ones with a table of ids.
    Labels come in ascending order, or in the file's order when there are regions, as in nnU-Net.

    Raises:
        DataError: the file is missing or broken, or its labels are.
    """
    content = read_json(path)
    declared = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(declared, dict) or not declared:
        raise DataError("'labels' is missing or empty", where=path, hint="give the dataset's own dataset.json")
    names = _invert_old_style(declared)
    values = {name: _read_values(name, value, path) for name, value in names.items()}
    ids = _read_ids(content, path)
    if ids is not None:
        values = {name: _restore(value, ids, path) for name, value in values.items()}
    ignore = values.pop(IGNORE_NAME, None)
    if ignore is not None and len(ignore) != 1:
        raise DataError(f"label '{IGNORE_NAME}' must be one value, got {list(ignore)}", where=path)
    has_regions = any(len(value) > 1 for value in values.values())
    labels = [
        _build_label(name, value, as_region=has_regions and isinstance(names[name], list))
        for name, value in values.items()
        if set(value) != {0}
    ]
    if not labels:
        raise DataError("'labels' names no label but the background", where=path)
    if len({label.key for label in labels}) < len(labels):
        raise DataError("'labels' gives several names to one value", where=path)
    if not has_regions:
        labels.sort(key=lambda label: label.values)
    return LabelSet(labels=tuple(labels), ignore=ignore[0] if ignore else None)


def label_values(values: Iterable[int]) -> LabelSet:
    """Make a label set of plain values, each named after itself; background (0) is left out."""
    return LabelSet(labels=tuple(_build_label(f"label {v}", (v,), as_region=False) for v in sorted(set(values) - {0})))


def find_reference_labels(reference: Path) -> Path | None:
    """Find the `dataset.json` that names the labels of references: beside their folder (`labelsTr/..`), or inside."""
    folder = (reference if reference.is_dir() else reference.parent).absolute()
    return next((path for path in (folder.parent / _NAME, folder / _NAME) if path.is_file()), None)


def find_prediction_labels(prediction: Path) -> Path | None:
    """Find the `dataset.json` that names predicted labels: inside their folder, where a predictor leaves one."""
    path = (prediction if prediction.is_dir() else prediction.parent) / _NAME
    return path if path.is_file() else None


def find_stored_ids(place: Path) -> LabelIds | None:
    """Find out whether label maps hold consecutive ids in place of the dataset's own.

    They do where the `dataset.json` that describes their folder carries a table of ids: preprocessed data,
    validation folders, what stock nnU-Net predicts with such a model, corrected copies.

    Returns:
        The table to undo it with; None when the maps hold the dataset's own ids.
    """
    folder = (place if place.is_dir() else place.parent).absolute()
    folders = [folder, folder.parent]
    if folder.name == "validation" and folder.parent.name.startswith("fold_"):
        folders.append(folder.parent.parent)
    for path in (candidate / "dataset.json" for candidate in folders):
        if path.is_file():
            content = read_json(path)
            return _read_ids(content, path) if isinstance(content, dict) else None
    return None


def _read_ids(content: dict[str, Any], path: Path) -> LabelIds | None:
    if LABEL_IDS_KEY not in content:
        return None
    stored = content[LABEL_IDS_KEY]
    if problem := check_label_ids(stored):
        raise DataError(problem, where=path)
    return make_label_ids(stored)


def _restore(values: tuple[int, ...], ids: LabelIds, path: Path) -> tuple[int, ...]:
    if max(values) >= len(ids.original):
        raise DataError(f"label {max(values)} is not in {LABEL_IDS_KEY}, which has {len(ids.original)} ids", where=path)
    return tuple(ids.original[value] for value in values)


def _invert_old_style(declared: dict[str, Any]) -> dict[str, Any]:
    if all(key.strip().isdigit() and isinstance(value, str) for key, value in declared.items()):
        return {name: int(value) for value, name in declared.items()}
    return declared


def _read_values(name: str, value: Any, path: Path) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    for item in values:
        if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item <= MAX_LABEL:
            raise DataError(f"label '{name}' has value '{item}', expected 0 to {MAX_LABEL}", where=path)
    if not values:
        raise DataError(f"label '{name}' has no value", where=path)
    return tuple(values)


def _build_label(name: str, values: tuple[int, ...], *, as_region: bool) -> Label:
    return Label(key=str(values) if as_region else str(values[0]), name=name, values=values)
