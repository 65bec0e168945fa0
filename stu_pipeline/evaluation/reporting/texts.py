"""Scores as CSV and tables as Markdown."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from io import StringIO

from stu_pipeline.evaluation.report import ScoreTable, Table


def write_scores_csv(table: ScoreTable) -> str:
    """Return every score: one row per case and label, one column per metric.

    What cannot be measured is empty, an infinite distance is `inf`. Nothing is rounded.
    """
    rows = [
        (case.pair.case, label.key, label.name, *(row[index][name] for name in table.names))
        for case, row in zip(table.cases, table.metrics, strict=True)
        for index, label in enumerate(table.labels)
    ]
    return format_csv(("case", "label", "name", *table.names), rows)


def format_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a CSV with a head; NaN and None become empty cells."""
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[_show_cell(value) for value in row] for row in rows])
    return stream.getvalue()


def format_markdown(table: Table) -> str:
    """Return a table in Markdown under its title; what would break a cell is escaped."""
    lines = [
        f"## {_escape(table.title)}",
        "",
        _join(table.columns),
        "|" + "---|" * len(table.columns),
        *[_join(row) for row in table.rows],
    ]
    return "\n".join(lines) + "\n"


def _show_cell(value: object) -> object:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _join(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escape(cell) for cell in cells) + " |"


def _escape(text: str) -> str:
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`").replace("*", "\\*")
