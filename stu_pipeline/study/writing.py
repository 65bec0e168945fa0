"""Write what a study came to: `scores.jsonl`, `study.json`, three CSV files, `study.md` and `study.html`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stu_pipeline.evaluation.report import Table
from stu_pipeline.evaluation.reporting.texts import format_csv, format_markdown
from stu_pipeline.records import describe, read_versions
from stu_pipeline.storage import write_json, write_text
from stu_pipeline.study.page import make_study_page
from stu_pipeline.study.pooling import score_cases, score_dataset, score_labels, score_seeds
from stu_pipeline.study.tables import (
    build_cell_table,
    build_dataset_table,
    build_gain_table,
    build_group_tables,
    build_overall_table,
)

if TYPE_CHECKING:
    from stu_pipeline.study.summing import StudySummary

SCHEMA = 1
_GAIN_FIELDS = (
    "mean_first", "mean_second", "difference", "ci_low", "ci_high", "p_value", "rank_biserial", "cohens_dz", "wins",
    "ties", "losses", "num_cases", "num_left_out",
)  # fmt: skip
_GROUP_FIELDS = (
    "grouping", "group", "column", "num_training_cases", "num_datasets", "num_labels", "dataset_macro", "class_macro",
)  # fmt: skip


def list_result_files(folder: Path) -> tuple[Path, ...]:
    """Name the files of the results; the page is the last."""
    names = ("scores.jsonl", "study.json", "datasets.csv", "gains.csv", "groups.csv", "study.md", "study.html")
    return tuple(folder / name for name in names)


def write_results(folder: Path, summary: StudySummary) -> None:
    """Write all files.

    Args:
        folder: made when missing.
        summary: what was found.

    Raises:
        StorageError: a file cannot be written.
    """
    rows, document, datasets, gains, groups, text, page = list_result_files(folder)
    write_text(rows, "".join(json.dumps(row.to_json()) + "\n" for row in summary.rows))
    write_json(document, _make_document(summary))
    write_text(datasets, _format_datasets(summary))
    write_text(gains, _format_gains(summary))
    group_rows = [[getattr(item, name) for name in _GROUP_FIELDS] for item in summary.groups]
    write_text(groups, format_csv(_GROUP_FIELDS, group_rows))
    write_text(text, _format_markdown(summary))
    write_text(page, make_study_page(summary))


def list_tables(summary: StudySummary) -> list[Table]:
    """List every table, in the order of the report."""
    tables = [build_dataset_table(summary.dice, summary.nsd)]
    if summary.gains:
        tables += [
            build_overall_table(summary.overall, has_failed_runs=True),
            build_overall_table(summary.overall, has_failed_runs=False),
            build_gain_table(summary.gains),
        ]
    return [*tables, *build_group_tables(summary.groups), build_cell_table(summary.result.cells)]


def _make_document(summary: StudySummary) -> dict[str, Any]:
    plain: dict[str, Any] = describe(
        {
            "schema": SCHEMA,
            "versions": read_versions(),
            "name": summary.manifest.name,
            "manifest": summary.manifest,
            "cells": summary.result.cells,
            "missing": summary.result.missing,
            "datasets": [
                {
                    **asdict(key),
                    "dice": score_dataset(scores),
                    "dice_per_seed": dict(zip(map(str, scores.seeds), score_seeds(scores), strict=True)),
                    "dice_per_label": score_labels(scores),
                    "dice_per_case": dict(zip(scores.cases, score_cases(scores).tolist(), strict=True)),
                    "nsd": score_dataset(summary.nsd[key]),
                }
                for key, scores in summary.dice.items()
            ],
            "gains": summary.gains,
            "overall": summary.overall,
            "groups": summary.groups,
            "pretraining_labels": sorted(summary.pretraining_labels),
            "compare_commands": summary.result.compare_commands,
        }
    )
    return plain


def _format_datasets(summary: StudySummary) -> str:
    rows = [
        (key.dataset, key.arm, key.scale, key.num_training_cases or None, label, dice,
         score_labels(summary.nsd[key]).get(label))
        for key, scores in summary.dice.items()
        for label, dice in [*score_labels(scores).items(), ("mean over labels", score_dataset(scores))]
    ]  # fmt: skip
    return format_csv(("dataset", "arm", "scale", "num_training_cases", "label", "Dice", "NSD"), rows)


def _format_gains(summary: StudySummary) -> str:
    columns = ("dataset", "arm", "scale", "baseline", "num_training_cases", "num_seeds", *_GAIN_FIELDS, "p_corrected",
               "flags")  # fmt: skip
    rows = [
        (
            gain.arm.dataset,
            gain.arm.arm,
            gain.arm.scale,
            gain.baseline.arm,
            gain.arm.num_training_cases or None,
            gain.num_seeds,
            *(getattr(gain.paired, name) for name in _GAIN_FIELDS),
            gain.p_corrected,
            "; ".join(gain.flags),
        )
        for gain in summary.gains
    ]
    return format_csv(columns, rows)


def _format_markdown(summary: StudySummary) -> str:
    lines = [f"- {sentence}\n" for sentence in (*summary.result.summaries, *summary.result.missing)]
    commands = "".join(f"    {command}\n" for command in summary.result.compare_commands)
    parts = [f"# Study {summary.manifest.name}\n", "".join(lines)]
    parts += [format_markdown(table) for table in list_tables(summary)]
    return "\n".join([*parts, *([f"## One pair at a time\n\n{commands}"] if commands else [])])
