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


def score_case(
    reference: Path, prediction: Path, *, reader: Any, labels: Sequence[Any], ignore_label: int | None
) -> Any:
    """Score one validation mask against its ground truth; a label absent from both scores NaN."""
    return compute_metrics(str(reference), str(prediction), reader, list(labels), ignore_label)


def summarise_cases(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Average scores over cases and labels. A label that no case has stays out of the foreground mean."""
    labels = list(cases[0]["metrics"])
    names = list(cases[0]["metrics"][labels[0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no value is NaN, which is meant
        mean = {
            label: {name: float(np.nanmean([case["metrics"][label][name] for case in cases])) for name in names}
            for label in labels
        }
        foreground = {
            name: float(np.nanmean([mean[label][name] for label in labels if label not in _BACKGROUND_KEYS]))
            for name in names
        }
    for case in cases:
        recursive_fix_for_json_export(case)
    return {"metric_per_case": cases, "mean": mean, "foreground_mean": foreground}


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write a summary atomically."""
    write_atomically(path, lambda temporary: save_summary_json(summary, str(temporary)))


def read_summary(path: Path) -> dict[str, Any]:
    """Read a summary that nnU-Net or this module wrote."""
    summary: dict[str, Any] = load_summary_json(str(path))
    return summary
