"""`summary.json` of validations, in nnU-Net's schema.

Reads and writes through nnU-Net's own functions, which turn label ids and regions into JSON keys.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import compute_metrics, load_summary_json, save_summary_json
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from stu_pipeline.storage import write_atomically

_BACKGROUND_KEYS = (0, "0")
_PARTIAL_NOTE = "scores of a label are null in cases where it is not marked, and no mean holds them"


def score_case(
    reference: Path,
    prediction: Path,
    *,
    reader: Any,
    labels: Sequence[Any],
    ignore_label: int | None,
    marked: Sequence[bool] | None = None,
) -> Any:
    """Score one validation mask against its ground truth.

    A label absent from both scores NaN. One that is not marked in the case scores None, counts of voxels included:
    nobody knows where it is. `marked` has a flag per label; None: all are marked.
    """
    case = compute_metrics(str(reference), str(prediction), reader, list(labels), ignore_label)
    for label, is_marked in zip(labels, marked or [True] * len(labels), strict=True):
        if not is_marked:
            case["metrics"][label] = dict.fromkeys(case["metrics"][label])
    return case


def summarise_cases(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Average scores over cases and labels. A label that no case has stays out of the foreground mean.

    Where a label is not marked in a case, our own block says so and in how many cases each label is.
    """
    labels = list(cases[0]["metrics"])
    names = list(cases[0]["metrics"][labels[0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no value is NaN, which is meant
        mean = {
            label: {name: _average([case["metrics"][label][name] for case in cases]) for name in names}
            for label in labels
        }
        foreground = {
            name: _average([mean[label][name] for label in labels if label not in _BACKGROUND_KEYS]) for name in names
        }
    for case in cases:
        recursive_fix_for_json_export(case)
    own = _describe_partial_labels(cases, labels)
    return {"metric_per_case": cases, "mean": mean, "foreground_mean": foreground, **own}


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write a summary atomically."""
    write_atomically(path, lambda temporary: save_summary_json(summary, str(temporary)))


def read_summary(path: Path) -> dict[str, Any]:
    """Read a summary that nnU-Net or this module wrote."""
    summary: dict[str, Any] = load_summary_json(str(path))
    return summary


def _average(values: Sequence[float | None]) -> float:
    return float(np.nanmean(np.array(values, dtype=np.float64)))


def _describe_partial_labels(cases: Sequence[dict[str, Any]], labels: Sequence[Any]) -> dict[str, Any]:
    numbers = {str(label): sum(case["metrics"][label]["Dice"] is not None for case in cases) for label in labels}
    if all(number == len(cases) for number in numbers.values()):
        return {}
    return {"stu": {"partial_labels": {"note": _PARTIAL_NOTE, "num_cases_marked": numbers}}}
