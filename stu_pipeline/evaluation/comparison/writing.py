"""Write a comparison as JSON, CSV, Markdown and one page.

Writes: `comparison.json`, `comparison.csv`, `comparison.md`, `comparison.html`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stu_pipeline.evaluation.comparison.config import CompareResult
from stu_pipeline.evaluation.comparison.sections import make_comparison_page
from stu_pipeline.evaluation.comparison.tables import (
    CSV_COLUMNS,
    build_friedman_table,
    build_pair_table,
    build_run_table,
    list_csv_rows,
)
from stu_pipeline.evaluation.reporting.texts import format_csv, format_markdown
from stu_pipeline.records import describe, read_versions
from stu_pipeline.storage import write_json, write_text

SCHEMA = 1


def list_comparison_files(folder: Path) -> tuple[Path, ...]:
    """Name the files of a comparison."""
    return tuple(folder / f"comparison.{ending}" for ending in ("json", "csv", "md", "html"))


def write_comparison(folder: Path, result: CompareResult, over_labels: NDArray[np.float64]) -> None:
    """Write the four files.

    Args:
        folder: made when missing.
        result: what was found.
        over_labels: mean over labels `(runs, cases)`, for the plots.

    Raises:
        StorageError: a file cannot be written.
    """
    document, scores, text, page = list_comparison_files(folder)
    write_json(document, {"schema": SCHEMA, "versions": read_versions(), **describe(result)})
    write_text(scores, format_csv(CSV_COLUMNS, list_csv_rows(result)))
    write_text(text, _format_markdown(result))
    write_text(page, make_comparison_page(result, over_labels))


def _format_markdown(result: CompareResult) -> str:
    tables = [build_run_table(result), *([build_friedman_table(result)] if result.friedman else [])]
    tables += [build_pair_table(pair, result.metric) for pair in result.pairs]
    sentences = "".join(f"- {pair.sentence}\n" for pair in result.pairs)
    return "\n".join(["# Comparison\n", sentences, *(format_markdown(table) for table in tables)])
