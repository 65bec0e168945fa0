"""The tables of a comparison, for the terminal, Markdown and the page."""

from __future__ import annotations

from collections.abc import Sequence

from stu_pipeline.evaluation.comparison.config import CompareResult, Difference, PairResult
from stu_pipeline.evaluation.comparison.sentence import name_effect, show_amount, show_p
from stu_pipeline.evaluation.report import Table

CSV_COLUMNS = (
    "first", "second", "label", "metric", "mean_first", "mean_second", "difference", "ci_low", "ci_high", "p_value",
    "p_corrected", "rank_biserial", "cohens_dz", "wins", "ties", "losses", "num_cases", "num_left_out",
)  # fmt: skip
_NOTHING = "-"


def build_run_table(result: CompareResult) -> Table:
    """Build the table of runs: mean, mean rank, cases."""
    direction = "higher is better" if result.higher_is_better else "lower is better"
    return Table(
        title=f"{result.metric}, {direction}, {len(result.cases)} cases, {len(result.labels)} labels",
        columns=("run", "mean", "mean rank", "cases in its summary"),
        rows=tuple(
            (
                run.name,
                _show(run.mean, result.metric),
                _NOTHING if run.mean_rank is None else f"{run.mean_rank:.2f}",
                str(run.num_cases),
            )
            for run in result.runs
        ),
    )


def build_pair_table(pair: PairResult, metric: str) -> Table:
    """Build the table of two runs: one row per label and one for all labels together."""
    rows = [_build_row(difference, metric) for difference in (*pair.labels, pair.overall)]
    return Table(
        title=f"{pair.second} minus {pair.first}",
        columns=(
            "label", pair.first, pair.second, "difference", "95 % CI", "p", "p corrected", "effect r", "dz",
            "better/equal/worse",
        ),
        rows=tuple(rows),
    )  # fmt: skip


def build_friedman_table(result: CompareResult) -> Table:
    """Build the table of the tests for any difference between three or more runs."""
    return Table(
        title="Any difference (Friedman)",
        columns=("label", "chi square", "p", "p corrected", "cases"),
        rows=tuple(
            (test.label, f"{test.statistic:.2f}", _show_p(test.p_value), _show_p(test.p_corrected), str(test.num_cases))
            for test in result.friedman
        ),
    )


def list_csv_rows(result: CompareResult) -> list[Sequence[object]]:
    """List every difference as a row of `CSV_COLUMNS`."""
    return [
        (pair.first, pair.second, item.label, result.metric, *(getattr(item, name) for name in CSV_COLUMNS[4:]))
        for pair in result.pairs
        for item in (*pair.labels, pair.overall)
    ]


def _build_row(item: Difference, metric: str) -> tuple[str, ...]:
    effect = _NOTHING
    if item.rank_biserial is not None:
        effect = f"{item.rank_biserial:+.2f} ({name_effect(item.rank_biserial)})"
    interval = _NOTHING
    if item.ci_low is not None and item.ci_high is not None:
        interval = (
            f"{show_amount(item.ci_low, metric, signed=True)} to {show_amount(item.ci_high, metric, signed=True)}"
        )
    return (
        item.label,
        _show(item.mean_first, metric),
        _show(item.mean_second, metric),
        _NOTHING if item.difference is None else show_amount(item.difference, metric, signed=True),
        interval,
        _show_p(item.p_value),
        _show_p(item.p_corrected),
        effect,
        _NOTHING if item.cohens_dz is None else f"{item.cohens_dz:+.2f}",
        f"{item.wins}/{item.ties}/{item.losses}",
    )


def _show(value: float | None, metric: str) -> str:
    return _NOTHING if value is None else show_amount(value, metric)


def _show_p(value: float | None) -> str:
    return _NOTHING if value is None else show_p(value).removeprefix("p ").removeprefix("= ")
