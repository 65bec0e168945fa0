"""`summary.json` in nnU-Net's schema with our own block beside it, and tables for people.

Nothing is NaN: what cannot be measured is null (docs/reference/metrics.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stu_pipeline.evaluation.config import CaseResult, EvaluateConfig, EvaluateResult, LabelResult, Spread
from stu_pipeline.evaluation.labels import Label
from stu_pipeline.evaluation.metrics import LabelScores
from stu_pipeline.evaluation.scoring import ScoredCase
from stu_pipeline.evaluation.statistics import (
    CONFIDENCE,
    NUM_RESAMPLES,
    describe_spread,
    mean_of_finite,
    mean_over_labels,
)
from stu_pipeline.records import describe, read_versions

SCHEMA = 1
NUM_WORST_CASES = 5
_NOTHING = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table as plain text cells, for whoever prints it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def list_metrics(scores: LabelScores) -> dict[str, float | int]:
    """Name the metrics of one case and label as `summary.json` does: nnU-Net's spelling first, ours after."""
    metrics: dict[str, float | int] = {
        "Dice": scores.dice,
        "IoU": scores.iou,
        "FP": scores.fp,
        "TP": scores.tp,
        "FN": scores.fn,
        "TN": scores.tn,
        "n_pred": scores.n_pred,
        "n_ref": scores.n_ref,
        "volume_pred_ml": scores.volume_pred_ml,
        "volume_ref_ml": scores.volume_ref_ml,
        "volume_error_ml": scores.volume_error_ml,
        "volume_error_relative": scores.volume_error_relative,
    }
    if scores.surface is not None:
        surface = scores.surface
        metrics |= {"HD95_mm": surface.hd95_mm, "ASSD_mm": surface.assd_mm, "NSD": surface.nsd}
    if scores.lesions is not None:
        lesions = scores.lesions
        metrics |= {"lesion_tp": lesions.tp, "lesion_fp": lesions.fp, "lesion_fn": lesions.fn}
        metrics |= {
            "lesion_f1": lesions.f1,
            "lesion_precision": lesions.precision,
            "lesion_recall": lesions.recall,
        }
    return metrics


class ScoreTable:
    """All scores of an evaluation: one array `(cases, labels)` per metric.

    Args:
        cases: scored cases, at least one, in the order they are reported.
        labels: scored labels, in the order they are reported, at least one.
        with_surface: whether the surface metrics were measured.
        with_lesions: whether lesions were looked for.
    """

    def __init__(
        self, cases: Sequence[ScoredCase], labels: Sequence[Label], *, with_surface: bool, with_lesions: bool = False
    ) -> None:
        self.cases = tuple(cases)
        self.labels = tuple(labels)
        self.with_surface = with_surface
        self.metrics = [
            [
                list_metrics(case.find_scores(label.key, with_surface=with_surface, with_lesions=with_lesions))
                for label in labels
            ]
            for case in cases
        ]
        self.names = tuple(self.metrics[0][0])
        self._arrays: dict[str, NDArray[np.float64]] = {}

    def values_of(self, name: str) -> NDArray[np.float64]:
        """Return one metric as `(cases, labels)`; NaN and infinite as in `LabelScores`."""
        if name not in self._arrays:
            values = [[metrics[name] for metrics in row] for row in self.metrics]
            self._arrays[name] = np.array(values, dtype=np.float64)
        return self._arrays[name]

    def spread_of(self, name: str, label_index: int, *, seed: int) -> Spread:
        """Describe one metric of one label over the cases."""
        return describe_spread(self.values_of(name)[:, label_index], seed=seed)


def describe_labels(table: ScoreTable, *, seed: int) -> tuple[LabelResult, ...]:
    """Describe every label over all cases."""
    results = []
    for index, label in enumerate(table.labels):

        def spread(name: str, index: int = index) -> Spread | None:
            return table.spread_of(name, index, seed=seed) if name in table.names else None

        results.append(
            LabelResult(
                key=label.key,
                name=label.name,
                dice=table.spread_of("Dice", index, seed=seed),
                iou=table.spread_of("IoU", index, seed=seed),
                nsd=spread("NSD"),
                hd95_mm=spread("HD95_mm"),
                assd_mm=spread("ASSD_mm"),
                volume_error_ml=spread("volume_error_ml"),
                volume_error_relative=spread("volume_error_relative"),
                lesion_f1=spread("lesion_f1"),
            )
        )
    return tuple(results)


def rank_cases(table: ScoreTable) -> tuple[CaseResult, ...]:
    """Sort the cases by their mean Dice, worst first; cases without any label come last."""
    results = []
    for case, dice in zip(table.cases, table.values_of("Dice"), strict=True):
        worst = None if np.isnan(dice).all() else int(np.nanargmin(dice))
        results.append(
            CaseResult(
                case=case.pair.case,
                mean_dice=mean_of_finite(dice),
                worst_label=None if worst is None else table.labels[worst].name,
                worst_dice=None if worst is None else float(dice[worst]),
            )
        )
    return tuple(sorted(results, key=lambda case: (math.inf if case.mean_dice is None else case.mean_dice, case.case)))


def build_summary(table: ScoreTable, result: EvaluateResult, config: EvaluateConfig) -> dict[str, Any]:
    """Build the content of `summary.json`: nnU-Net's three keys, then `stu` with everything else."""
    values = {name: table.values_of(name) for name in table.names}
    summary = {
        "foreground_mean": {name: mean_over_labels(array) for name, array in values.items()},
        "mean": {
            label.key: {name: mean_of_finite(array[:, index]) for name, array in values.items()}
            for index, label in enumerate(table.labels)
        },
        "metric_per_case": [
            {
                "metrics": {label.key: row[index] for index, label in enumerate(table.labels)},
                "prediction_file": case.pair.prediction,
                "reference_file": case.pair.reference,
            }
            for case, row in zip(table.cases, table.metrics, strict=True)
        ],
        "stu": {
            "schema": SCHEMA,
            "versions": read_versions(),
            "config": config,
            "labels_from": result.labels_from,
            "matching": result.matching,
            "warnings": result.warnings,
            "num_cases": result.num_cases,
            "missing": result.missing,
            "extra": result.extra,
            "confidence": {
                "level": CONFIDENCE,
                "method": "percentile bootstrap over cases",
                "resamples": NUM_RESAMPLES,
            },
            "mean_dice": result.mean_dice,
            "mean_dice_ci": result.mean_dice_ci,
            "labels": {label.key: label for label in result.labels},
            "worst_cases": result.cases[:NUM_WORST_CASES],
        },
    }
    plain: dict[str, Any] = describe(summary)
    return plain


def build_label_table(result: EvaluateResult, *, tolerance_mm: float) -> Table:
    """Build the table of scores: one row per label and one for the mean."""
    with_surface = any(label.nsd is not None for label in result.labels)
    with_lesions = any(label.lesion_f1 is not None for label in result.labels)
    surface_columns = ("HD95 mm", f"NSD {tolerance_mm:g} mm") if with_surface else ()
    lesion_column = ("lesion F1",) if with_lesions else ()
    rows = [
        (
            label.name,
            _show(label.dice.mean),
            _show_interval(label.dice.ci_low, label.dice.ci_high),
            _show(label.dice.median),
            *((_show_distance(label.hd95_mm), _show(label.nsd.mean if label.nsd else None)) if with_surface else ()),
            _show_error(label.volume_error_ml),
            *((_show(label.lesion_f1.mean if label.lesion_f1 else None),) if with_lesions else ()),
            str(label.dice.num_values),
        )
        for label in result.labels
    ]
    low, high = result.mean_dice_ci or (None, None)
    means = (
        (
            _show_mean([label.hd95_mm for label in result.labels], digits=2),
            _show_mean([label.nsd for label in result.labels]),
        )
        if with_surface
        else ()
    )
    lesion_mean = (_show_mean([label.lesion_f1 for label in result.labels]),) if with_lesions else ()
    overall = ("mean", _show(result.mean_dice), _show_interval(low, high), _NOTHING)
    rows.append((*overall, *means, _NOTHING, *lesion_mean, str(result.num_cases)))
    return Table(
        title=f"{result.num_cases} case{'s' if result.num_cases != 1 else ''}",
        columns=("label", "Dice", "95 % CI", "median", *surface_columns, "volume error ml", *lesion_column, "n"),
        rows=tuple(rows),
    )


def build_worst_table(result: EvaluateResult) -> Table:
    """Build the table of the worst cases by mean Dice."""
    return Table(
        title="worst cases",
        columns=("case", "mean Dice", "worst label", "its Dice"),
        rows=tuple(
            (case.case, _show(case.mean_dice), case.worst_label or _NOTHING, _show(case.worst_dice))
            for case in result.cases[:NUM_WORST_CASES]
        ),
    )


def _show_mean(spreads: Sequence[Spread | None], *, digits: int = 4) -> str:
    means = [spread.mean for spread in spreads if spread is not None and spread.mean is not None]
    return f"{sum(means) / len(means):.{digits}f}" if means else _NOTHING


def _show(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.4f}"


def _show_interval(low: float | None, high: float | None) -> str:
    return _NOTHING if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _show_distance(spread: Spread | None) -> str:
    if spread is None:
        return _NOTHING
    shown = _NOTHING if spread.mean is None else f"{spread.mean:.2f}"
    return f"{shown} ({spread.num_infinite} infinite)" if spread.num_infinite else shown


def _show_error(spread: Spread | None) -> str:
    return _NOTHING if spread is None or spread.mean is None else f"{spread.mean:+.3g}"
