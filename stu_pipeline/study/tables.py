"""The tables of a study, as text cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stu_pipeline.evaluation.comparison.sentence import show_p
from stu_pipeline.evaluation.report import Table
from stu_pipeline.evaluation.statistics import describe_spread
from stu_pipeline.study.config import CellStatus
from stu_pipeline.study.gains import DatasetGain, OverallGain
from stu_pipeline.study.groups import GroupScore
from stu_pipeline.study.pooling import ArmKey, ArmScores, score_cases, score_dataset, score_seeds

_NOTHING = "-"
DATASET_COLUMNS = (
    "dataset", "arm", "training cases", "seeds", "cases", "mean Dice", "per seed", "median over cases", "quartiles",
    "NSD",
)  # fmt: skip
GAIN_COLUMNS = (
    "dataset", "arm", "baseline", "training cases", "arm's Dice", "baseline's Dice", "gain", "95 % CI", "p",
    "p corrected", "better/equal/worse", "looks failed",
)  # fmt: skip


def build_dataset_table(dice: dict[ArmKey, ArmScores], nsd: dict[ArmKey, ArmScores]) -> Table:
    """Build the table of every arm on every dataset."""
    rows = []
    for key, scores in dice.items():
        spread = describe_spread(score_cases(scores))
        seeds = score_seeds(scores)
        rows.append(
            (
                key.dataset,
                key.column,
                show_number_of_cases(key.num_training_cases),
                str(len(scores.seeds)),
                str(len(scores.cases)),
                show(score_dataset(scores)),
                f"{min(seeds):.4f} to {max(seeds):.4f}" if len(seeds) > 1 else _NOTHING,
                show(spread.median),
                f"{show(spread.quartile_low)} to {show(spread.quartile_high)}",
                show(score_dataset(nsd[key])) if key in nsd else _NOTHING,
            )
        )
    return Table(title="Every arm on every dataset", columns=DATASET_COLUMNS, rows=tuple(rows))


def build_gain_table(gains: Iterable[DatasetGain]) -> Table:
    """Build the table of every comparison on every dataset."""
    rows = tuple(_build_gain_row(gain) for gain in gains)
    return Table(title="Gains per dataset", columns=GAIN_COLUMNS, rows=rows)


def build_overall_table(overall: Iterable[OverallGain], *, has_failed_runs: bool) -> Table:
    """Build the table of every comparison over all datasets, with or without runs that look failed."""
    title = "Gains over datasets, " + ("all of them" if has_failed_runs else "without runs that look failed")
    columns = (
        "arm", "baseline", "training cases", "datasets", "mean", "95 % CI", "median", "trimmed mean",
        "better/equal/worse", "p over datasets", "made worse",
    )  # fmt: skip
    rows = tuple(
        (
            f"{item.comparison.arm} {item.scale}".strip(),
            f"{item.comparison.baseline} {item.baseline_scale}".strip(),
            show_number_of_cases(item.num_training_cases),
            str(item.num_datasets),
            show(item.mean, signed=True),
            show_range(item.ci_low, item.ci_high),
            show(item.median, signed=True),
            show(item.trimmed_mean, signed=True),
            f"{item.wins}/{item.ties}/{item.losses}",
            show_p_value(item.p_value),
            ", ".join(item.negative) or _NOTHING,
        )
        for item in overall
        if item.has_failed_runs == has_failed_runs
    )
    return Table(title=title, columns=columns, rows=rows)


def build_group_tables(groups: Sequence[GroupScore]) -> list[Table]:
    """Build one table per grouping and number of training cases: a row per group, two averages per arm."""
    kinds = dict.fromkeys((item.grouping, item.num_training_cases) for item in groups)
    return [_build_group_table(groups, grouping, number) for grouping, number in kinds]


def build_cell_table(cells: Iterable[CellStatus]) -> Table:
    """Build the table of cells: how each stands."""
    columns = ("cell", "state", "Dice", "time", "note")
    rows = tuple(
        (
            cell.name,
            cell.state,
            show(cell.mean_dice),
            _NOTHING if cell.elapsed_s is None else f"{cell.elapsed_s:.0f} s",
            cell.error or "; ".join(cell.flags) or _NOTHING,
        )
        for cell in cells
    )
    return Table(title="Cells", columns=columns, rows=rows)


def show(value: float | None, *, signed: bool = False) -> str:
    """Write a score or a difference of scores; a dash for nothing."""
    return _NOTHING if value is None else f"{value:+.4f}" if signed else f"{value:.4f}"


def show_range(low: float | None, high: float | None) -> str:
    """Write an interval of differences; a dash for none."""
    return _NOTHING if low is None or high is None else f"{low:+.4f} to {high:+.4f}"


def show_number_of_cases(number: int) -> str:
    """Write the number of training cases; folds have none of their own."""
    return str(number) if number else "folds"


def show_p_value(value: float | None) -> str:
    """Write a p-value; a dash for none."""
    return _NOTHING if value is None else show_p(value).removeprefix("p ").removeprefix("= ")


def _build_gain_row(gain: DatasetGain) -> tuple[str, ...]:
    paired = gain.paired
    return (
        gain.arm.dataset,
        gain.arm.column,
        gain.baseline.column,
        show_number_of_cases(gain.arm.num_training_cases),
        show(paired.mean_second),
        show(paired.mean_first),
        show(paired.difference, signed=True),
        show_range(paired.ci_low, paired.ci_high),
        show_p_value(paired.p_value),
        show_p_value(gain.p_corrected),
        f"{paired.wins}/{paired.ties}/{paired.losses}",
        "; ".join(gain.flags) or _NOTHING,
    )


def _build_group_table(groups: Sequence[GroupScore], grouping: str, number: int) -> Table:
    own = [item for item in groups if (item.grouping, item.num_training_cases) == (grouping, number)]
    columns = list(dict.fromkeys(item.column for item in own))
    rows = []
    for group in dict.fromkeys(item.group for item in own):
        by_column = {item.column: item for item in own if item.group == group}
        some = next(iter(by_column.values()))
        cells = [
            f"{show(by_column[name].dataset_macro)} ({show(by_column[name].class_macro)})"
            if name in by_column
            else _NOTHING
            for name in columns
        ]
        rows.append((group, str(some.num_datasets), str(some.num_labels), *cells))
    cases = f", {number} training cases" if number else ""
    return Table(
        title=f"By {grouping}{cases}: dataset-macro (class-macro) Dice" if grouping != "all"
        else f"All datasets{cases}: dataset-macro (class-macro) Dice",
        columns=("group", "datasets", "labels", *columns),
        rows=tuple(rows),
    )  # fmt: skip
