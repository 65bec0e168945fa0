"""The validation cases of finished folds, and what they scored.

Reads: `fold_N/validation/summary.json`, `dataset.json` and the names of the training files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.cases import Case, list_training_cases
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.datasets.endings import split_ending
from stu_pipeline.errors import DataError, ModelError
from stu_pipeline.prediction.models.folds import list_folds, suggest_training
from stu_pipeline.storage import read_json
from stu_pipeline.workspace import RunPaths, find_dataset, fold_folder

Key = tuple[int, ...]

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class ValidatedFold:
    """A finished fold: the Dice of every label of its validation cases, None where nobody has the label."""

    fold: int
    scores: Mapping[str, Mapping[Key, float | None]]
    """By case and label values."""


def list_validated_folds(path: Path) -> tuple[list[ValidatedFold], list[int]]:
    """List the finished folds of a model folder that were validated, and the finished ones that were not.

    Raises:
        ModelError: there is none.
        DataError: a summary cannot be read.
    """
    folds, bare = [], []
    for fold in list_folds(path):
        run = RunPaths(fold_folder(path, fold))
        if not isinstance(fold, int) or not run.checkpoint("final").is_file():
            continue  # `fold_all` has no case that it was not trained on
        if run.validation_summary.is_file():
            folds.append(ValidatedFold(fold, read_scores(run.validation_summary)))
        else:
            bare.append(fold)
    if not folds:
        raise ModelError(
            "no fold is finished and validated, so there is nothing to calibrate on",
            where=path,
            hint=suggest_training(path, bare[0] if bare else 0),
        )
    return folds, bare


def read_scores(path: Path) -> dict[str, dict[Key, float | None]]:
    """Read the Dice per case and label of a validation's summary, ours or nnU-Net's.

    Raises:
        DataError: it is not such a summary.
    """
    content = read_json(path)
    try:
        return {
            split_ending(Path(case["prediction_file"]).name)[0]: {
                parse_label_key(key): _read_dice(scores) for key, scores in case["metrics"].items()
            }
            for case in content["metric_per_case"]
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"is not the summary of a validation: {error!r}", where=path) from error


def parse_label_key(key: str) -> Key:
    """Return the label values of a summary's key.

    >>> parse_label_key("(1, 2)")
    (1, 2)
    """
    return tuple(sorted(int(number) for number in _NUMBER.findall(key)))


def find_cases(dataset: str, names: Sequence[str]) -> dict[str, Case]:
    """Find training cases of a dataset by name; those that are not there are left out.

    Raises:
        DataError: no such dataset, or its files cannot be used.
    """
    paths = find_dataset(dataset)
    cases = {case.id: case for case in list_training_cases(paths.raw, read_dataset_json(paths.dataset_json))}
    return {name: cases[name] for name in names if name in cases}


def _read_dice(scores: Mapping[str, Any]) -> float | None:
    value = scores["Dice"]
    if value is None:
        return None
    dice = float(value)
    return dice if 0 <= dice <= 1 else None  # NaN: neither mask nor reference has the label
