"""Measure every validation case with the fold that was not trained on it; what was measured is kept.

Reads: the training images. Writes: `fold_N/quality_features.json`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import DataError, MemoryLimitError, NonFiniteError
from stu_pipeline.log import Listener, Notice, Progress
from stu_pipeline.prediction.calibration.window import FoldMeter
from stu_pipeline.prediction.models.model_folder import ModelFolder
from stu_pipeline.prediction.models.networks import InferenceSettings
from stu_pipeline.prediction.quality.features import LabelFeatures
from stu_pipeline.storage import read_json, write_json
from stu_pipeline.workspace import fold_folder

FEATURES_FILE = "quality_features.json"
SCHEMA = 1
# A kill loses no more than these.
_CASES_PER_WRITE = 10
# What concerns one case only. Anything else (a full disk, a wrong model) stops the run.
_CASE_ERRORS = (DataError, NonFiniteError, MemoryLimitError)

CaseFeatures = dict[str, dict[int, LabelFeatures]]


def measure_fold(
    folder: ModelFolder, settings: InferenceSettings, cases: Mapping[str, Case], listen: Listener
) -> tuple[CaseFeatures, list[str]]:
    """Return the features of the cases of one fold, and one line for each that could not be measured.

    What was measured before with the same checkpoint and settings is taken from `quality_features.json`.

    Args:
        folder: opened with that fold only.
        settings: as predictions will be run.
        cases: by name.
        listen: receives `Progress` and `Notice`.

    Raises:
        StorageError: the features cannot be written.
    """
    item = folder.folds[0]
    path = fold_folder(folder.path, item.fold) / FEATURES_FILE
    recipe = _describe_recipe(item.identity, settings)
    known = _read_features(path, recipe)
    found = {name: known[name] for name in cases if name in known}
    missing = {name: case for name, case in cases.items() if name not in known}
    if not missing:
        listen(Notice(text=f"fold {item.fold} was measured before"))
        return found, []
    meter = FoldMeter(folder, settings)
    skipped: list[str] = []
    for count, (name, case) in enumerate(missing.items(), start=1):
        try:
            found[name], _ = meter.measure(case)
        except _CASE_ERRORS as error:
            skipped.append(f"{name}: {error}")
        if count == len(missing) or count % _CASES_PER_WRITE == 0:
            write_json(path, {"schema": SCHEMA, "recipe": recipe, "cases": _pack(found)})
        listen(Progress(step=f"fold {item.fold}", done=count, total=len(missing), item=name))
    return found, skipped


def _describe_recipe(identity: str, settings: InferenceSettings) -> dict[str, Any]:
    """Describe what decides the features besides the images."""
    return {
        "checkpoint": identity,
        "tta": settings.tta,
        "step": settings.step,
        "precision": str(settings.autocast or "float32"),
    }


def _read_features(path: Path, recipe: Mapping[str, Any]) -> CaseFeatures:
    """Read what was measured before; nothing where the file is missing, damaged or of other weights."""
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
        if content["schema"] != SCHEMA or content["recipe"] != recipe:
            return {}
        return {
            name: {int(channel): LabelFeatures(**values) for channel, values in channels.items()}
            for name, channels in content["cases"].items()
        }
    except (AttributeError, DataError, KeyError, TypeError, ValueError):
        return {}


def _pack(features: CaseFeatures) -> dict[str, Any]:
    return {
        name: {str(channel): dataclasses.asdict(values) for channel, values in channels.items()}
        for name, channels in features.items()
    }
