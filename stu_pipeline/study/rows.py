"""The scores of a study as rows: one per cell, case and label.

Reads: `scores/<cell>.json`. Writes: `results/scores.jsonl`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.endings import split_ending
from stu_pipeline.errors import DataError
from stu_pipeline.storage import read_json
from stu_pipeline.study.cells import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """One label of one case in one cell."""

    cell: Cell
    case: str
    label: str
    dice: float
    """NaN where neither map has the label; 0 where exactly one has it."""
    nsd: float
    """The same rule; NaN also where it was not measured."""
    num_reference: int
    """Voxels of the label in the reference."""

    def to_json(self) -> dict[str, Any]:
        """Return the row as a line of `scores.jsonl`; NaN becomes null."""
        cell = self.cell
        return {
            "cell": cell.name,
            "dataset": cell.dataset,
            "arm": cell.arm,
            "scale": cell.scale,
            "num_training_cases": cell.split.num_training_cases,
            "fold": cell.split.fold,
            "seed": cell.split.seed,
            "case": self.case,
            "label": self.label,
            "Dice": None if math.isnan(self.dice) else self.dice,
            "NSD": None if math.isnan(self.nsd) else self.nsd,
            "n_ref": self.num_reference,
        }


def read_rows(summary: Path, cell: Cell) -> list[ScoreRow]:
    """Read the rows of a scored cell.

    Raises:
        DataError: the summary is missing or not one of ours.
    """
    content = read_json(summary)
    try:
        names = {key: str(label["name"]) for key, label in content["stu"]["labels"].items()}
        return [
            ScoreRow(
                cell=cell,
                case=split_ending(Path(case["prediction_file"]).name)[0],
                label=names[key],
                dice=_to_float(metrics["Dice"]),
                nsd=_to_float(metrics.get("NSD")),
                num_reference=int(metrics["n_ref"]),
            )
            for case in content["metric_per_case"]
            for key, metrics in case["metrics"].items()
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"'{summary.name}' is not a summary of stu: lacks {error}", where=summary) from error


def _to_float(value: Any) -> float:
    return math.nan if value is None else float(value)
