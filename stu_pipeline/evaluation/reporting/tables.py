"""The full tables of an evaluation, for Markdown and the page."""

from __future__ import annotations

from collections.abc import Callable

from stu_pipeline.evaluation.config import EvaluateResult, LabelResult, Spread
from stu_pipeline.evaluation.report import Table

NUM_WORST_CASES = 15
_NOTHING = "-"
_Cell = Callable[[LabelResult], str]


def build_full_table(result: EvaluateResult, *, tolerance_mm: float) -> Table:
    """Build the table of labels with everything that was measured: a row per label and one for the mean."""
    columns: list[tuple[str, _Cell]] = [
        ("label", lambda label: label.name),
        ("Dice", lambda label: show_number(label.dice.mean)),
        ("95 % CI", lambda label: show_range(label.dice.ci_low, label.dice.ci_high)),
        ("median", lambda label: show_number(label.dice.median)),
        ("its 95 % CI", lambda label: show_range(label.dice.median_ci_low, label.dice.median_ci_high)),
    ]
    first = result.labels[0] if result.labels else None
    if first is not None and first.nsd is not None:
        columns += [
            (f"NSD {tolerance_mm:g} mm", lambda label: show_number(_mean(label.nsd))),
            ("HD95 mm", lambda label: show_number(_mean(label.hd95_mm), digits=2)),
            ("ASSD mm", lambda label: show_number(_mean(label.assd_mm), digits=2)),
            ("one empty", lambda label: str(label.hd95_mm.num_infinite if label.hd95_mm else 0)),
        ]
    columns += [
        ("volume error ml", lambda label: _show_signed(label.volume_error_ml)),
        ("volume error %", lambda label: _show_signed(label.volume_error_relative, factor=100.0)),
    ]
    if first is not None and first.lesion_f1 is not None:
        columns.append(("lesion F1", lambda label: show_number(_mean(label.lesion_f1))))
    columns.append(("cases", lambda label: str(label.dice.num_values)))
    rows = [tuple(cell(label) for _, cell in columns) for label in result.labels]
    low, high = result.mean_dice_ci or (None, None)
    total = ["mean over labels", show_number(result.mean_dice), show_range(low, high)]
    rows.append((*total, *[_NOTHING] * (len(columns) - len(total) - 1), str(result.num_cases)))
    return Table(title="Labels", columns=tuple(name for name, _ in columns), rows=tuple(rows))


def build_case_table(result: EvaluateResult, *, limit: int | None = NUM_WORST_CASES) -> Table:
    """Build the table of cases, worst mean Dice first; `limit` None shows all."""
    shown = result.cases[:limit]
    title = "Cases, worst first" if len(shown) == len(result.cases) else f"The {len(shown)} worst cases"
    return Table(
        title=title,
        columns=("case", "mean Dice", "worst label", "its Dice"),
        rows=tuple(
            (case.case, show_number(case.mean_dice), case.worst_label or _NOTHING, show_number(case.worst_dice))
            for case in shown
        ),
    )


def show_number(value: float | None, *, digits: int = 3) -> str:
    """Write a score with three digits; a dash for nothing."""
    return _NOTHING if value is None else f"{value:.{digits}f}"


def show_range(low: float | None, high: float | None) -> str:
    """Write an interval; a dash for none."""
    return _NOTHING if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _mean(spread: Spread | None) -> float | None:
    return None if spread is None else spread.mean


def _show_signed(spread: Spread | None, *, factor: float = 1.0) -> str:
    mean = _mean(spread)
    return _NOTHING if mean is None else f"{mean * factor:+.3g}"
