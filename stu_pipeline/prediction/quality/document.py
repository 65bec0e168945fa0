"""`quality.json`: the estimator of a model folder, the checkpoints it is for, and whether it is worth anything.

Reads and writes: `quality.json` in a model folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.errors import DataError
from stu_pipeline.prediction.quality.estimator import Estimator, SeenError, UsualLabel
from stu_pipeline.prediction.quality.evaluation import Verdict
from stu_pipeline.prediction.quality.regression import AGREEMENT, FEATURES, LabelPart, Regression
from stu_pipeline.records import describe, read_versions
from stu_pipeline.storage import read_json, write_json

QUALITY_FILE = "quality.json"
SCHEMA = 1
_SHAPE_ERRORS = (AttributeError, IndexError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The content of `quality.json`, as far as a prediction needs it."""

    checkpoints: Mapping[str, str]
    """Identity of the checkpoint of every fold it was learned from."""
    tta: str
    error_rate: float
    is_useful: bool
    estimator: Estimator


def write_quality(path: Path, calibration: Calibration, verdict: Verdict, **facts: Any) -> dict[str, Any]:
    """Write `quality.json` atomically and return its content.

    Args:
        path: of the file.
        calibration: what is used later.
        verdict: the numbers behind `is_useful`.
        facts: further JSON values that a reader may want.

    Raises:
        StorageError: it cannot be written.
    """
    estimator = calibration.estimator
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "is_useful": calibration.is_useful,
        "validity": VALIDITY,
        "checkpoints": dict(calibration.checkpoints),
        "tta": calibration.tta,
        "error_rate": calibration.error_rate,
        **facts,
        "evaluation": describe(verdict),
        "estimator": {
            "labels": describe(dict(estimator.labels)),
            "regression": describe(estimator.regression),
            "group_regressions": describe(dict(estimator.group_regressions)),
            "label_errors": {name: _pack(errors) for name, errors in estimator.label_errors.items()},
            "case_errors": _pack(estimator.case_errors),
        },
        "versions": read_versions(),
    }
    write_json(path, content)
    return content


VALIDITY = (
    "expected Dice and bounds hold for images like those of the cross-validation (exchangeable cases: same scanners, "
    "protocols, patients); for others they may be far off. They were learned from single folds; the ensemble of the "
    "folds is usually better, so its masks are usually better than these numbers"
)


def find_calibration(model_folder: Path, checkpoints: Mapping[str, str]) -> tuple[Calibration | None, str]:
    """Read the calibration of a model folder, if there is one and it is for these checkpoints.

    Args:
        model_folder: the folder.
        checkpoints: identity of the checkpoint of every fold that will be used, by name of the fold.

    Returns:
        The calibration, None where there is none to use; and why it is not used, '' where there is nothing to say.
    """
    path = model_folder / QUALITY_FILE
    if not path.is_file():
        return None, ""
    try:
        calibration = read_quality(path)
    except DataError as error:
        return None, f"'{QUALITY_FILE}' is not used: {error.problem}"
    if not calibration.is_useful:
        return None, f"'{QUALITY_FILE}' is not used: its estimates were no better than the mean Dice of each label"
    changed = [fold for fold, identity in checkpoints.items() if calibration.checkpoints.get(fold) != identity]
    if changed:
        listed = ", ".join(changed)
        return (
            None,
            f"'{QUALITY_FILE}' is not used: fold {listed} has another checkpoint since; run stu calibrate again",
        )
    return calibration, ""


def read_quality(path: Path) -> Calibration:
    """Read a `quality.json`.

    Raises:
        DataError: missing, damaged, or of another schema.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else None
        raise DataError(f"has schema '{found}', expected '{SCHEMA}'", where=path, hint="run stu calibrate again")
    try:
        return Calibration(
            checkpoints={str(fold): str(identity) for fold, identity in content["checkpoints"].items()},
            tta=str(content["tta"]),
            error_rate=_read_number(content["error_rate"]),
            is_useful=content["is_useful"] is True,
            estimator=_read_estimator(content["estimator"]),
        )
    except _SHAPE_ERRORS as error:
        raise DataError(
            f"'{path.name}' is damaged: {type(error).__name__} {error}", where=path, hint="run stu calibrate again"
        ) from error


def _read_estimator(content: Mapping[str, Any]) -> Estimator:
    estimator = Estimator(
        labels={str(name): _read_label(label) for name, label in content["labels"].items()},
        regression=_read_regression(content["regression"]),
        group_regressions={int(group): _read_regression(item) for group, item in content["group_regressions"].items()},
        label_errors={str(name): _unpack(errors) for name, errors in content["label_errors"].items()},
        case_errors=_unpack(content["case_errors"]),
    )
    groups = {item.group for errors in (estimator.case_errors, *estimator.label_errors.values()) for item in errors}
    if not groups <= set(estimator.group_regressions) or set(estimator.labels) != set(estimator.label_errors):
        raise ValueError("errors and regressions do not fit each other")
    return estimator


def _read_label(content: Mapping[str, Any]) -> UsualLabel:
    low, high = (_read_number(value) for value in content["volume_ml"])
    mean = content["mean_dice"]
    return UsualLabel(
        channel=int(content["channel"]),
        key=tuple(int(value) for value in content["key"]),
        num_cases=int(content["num_cases"]),
        share=_read_number(content["share"]),
        mean_dice=None if mean is None else _read_number(mean),
        accept_dice=_read_number(content["accept_dice"]),
        volume_ml=(low, high),
    )


def _read_regression(content: Mapping[str, Any]) -> Regression:
    features = tuple(str(name) for name in content["features"])
    if features not in (FEATURES, (*FEATURES, AGREEMENT)):
        raise ValueError(f"unknown features {list(features)}")
    numbers = {name: tuple(_read_number(v) for v in content[name]) for name in ("means", "spreads", "slopes")}
    if {len(values) for values in numbers.values()} != {len(features)} or min(numbers["spreads"]) <= 0:
        raise ValueError("numbers do not fit the features")
    return Regression(
        features=features,
        means=numbers["means"],
        spreads=numbers["spreads"],
        slopes=numbers["slopes"],
        intercept=_read_number(content["intercept"]),
        labels={str(name): _read_part(part) for name, part in content["labels"].items()},
    )


def _read_part(content: Mapping[str, Any]) -> LabelPart:
    volume, surface = (tuple(_read_number(v) for v in content[name]) for name in ("log_volume", "log_surface"))
    if min(volume[1], surface[1]) <= 0:
        raise ValueError("a spread is not positive")
    return LabelPart(
        offset=_read_number(content["offset"]),
        log_volume=(volume[0], volume[1]),
        log_surface=(surface[0], surface[1]),
    )


def _read_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"'{value}' is not a number")
    return float(value)


def _pack(errors: tuple[SeenError, ...]) -> list[list[float]]:
    return [[item.group, item.error] for item in errors]


def _unpack(errors: list[Any]) -> tuple[SeenError, ...]:
    return tuple(SeenError(group=int(group), error=_read_number(error)) for group, error in errors)
