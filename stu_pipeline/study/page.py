"""The page of a study: one file, no network, no scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stu_pipeline.evaluation.reporting.page import escape, make_cards, make_facts, make_figure, make_page, make_table
from stu_pipeline.study.charts import draw_gains, draw_learning_curve
from stu_pipeline.study.config import CellStatus
from stu_pipeline.study.gains import MIN_DATASETS_TO_TRIM
from stu_pipeline.study.groups import UNKNOWN, name_target
from stu_pipeline.study.manifest import StudyDataset
from stu_pipeline.study.tables import (
    build_cell_table,
    build_dataset_table,
    build_gain_table,
    build_group_tables,
    build_overall_table,
)

if TYPE_CHECKING:
    from stu_pipeline.study.summing import StudySummary

RULES = (
    "A case is averaged over its seeds first. A dataset's Dice is the mean over its labels of the mean over its cases; "
    "a label that neither reference nor prediction has counts nowhere, one that exactly one of them has counts 0.",
    "A gain is the mean over cases of the case's difference, a case being the mean over the labels that both arms "
    "have: what stu compare says of the same two runs. Its interval is a bootstrap over cases, p is Wilcoxon's "
    "signed-rank test over cases, corrected with Holm's method over the datasets and numbers of training cases of a "
    "comparison. Cases that are validated in every cell are the same ones, so the tests of several numbers of training "
    "cases are not independent.",
    "Dataset-macro is the mean over datasets of the mean over their labels; class-macro the mean over all labels of "
    "all datasets. Both are over the datasets that every arm has.",
    "The trimmed mean leaves out the tenth of the datasets with the largest and the tenth with the smallest gains, at "
    f"least one each; below {MIN_DATASETS_TO_TRIM} datasets nothing is left out.",
    "A run looks failed when a label has Dice 0 in all its cases, its loss was not finite or never fell, or it stopped "
    "early. The second table of gains leaves out every dataset with such a run in one of both arms, so that a failed "
    "baseline is no gain.",
)


def make_study_page(summary: StudySummary) -> str:
    """Return the whole page."""
    name = summary.manifest.name
    return make_page(
        f"Study {name}",
        [
            f"<h1>Study {escape(name)}</h1>",
            _make_lead(summary),
            _make_cards(summary.result.cells),
            _make_curves(summary),
            _make_gains(summary),
            "<h2>Every arm on every dataset</h2>",
            make_table(build_dataset_table(summary.dice, summary.nsd)),
            _make_groups(summary),
            _make_datasets(summary),
            _make_cells(summary),
            _make_rules(),
            _make_commands(summary),
        ],
    )


def _make_lead(summary: StudySummary) -> str:
    sentences = "".join(f'<p class="lead">{escape(text)}.</p>' for text in summary.result.summaries)
    if not summary.result.missing:
        return sentences
    items = "".join(f"<li>{escape(text)}</li>" for text in summary.result.missing)
    return f"{sentences}<p>Not complete yet:</p><ul>{items}</ul>"


def _make_cards(cells: tuple[CellStatus, ...]) -> str:
    counts = [
        (str(sum(cell.state == "done" for cell in cells)), "cells done"),
        (str(sum(cell.state == "failed" for cell in cells)), "cells failed"),
        (str(sum(bool(cell.flags) for cell in cells)), "runs that look failed"),
        (str(len(cells)), "cells in all"),
    ]
    return make_cards(counts)


def _make_curves(summary: StudySummary) -> str:
    figures = [
        make_figure(draw_learning_curve(dataset.name, summary.dice), "Points are seeds, lines go through their means.")
        for dataset in summary.manifest.datasets
    ]
    shown = "".join(figures)
    return f"<h2>Learning curves</h2>{shown}" if shown else ""


def _make_gains(summary: StudySummary) -> str:
    if not summary.gains:
        return ""
    figures = []
    for comparison in summary.manifest.comparisons:
        for scale in dict.fromkeys(gain.arm.scale for gain in summary.gains):
            own = [
                gain
                for gain in summary.gains
                if (gain.arm.arm, gain.baseline.arm, gain.arm.scale) == (comparison.arm, comparison.baseline, scale)
            ]
            title = f"{comparison.arm} {scale}".strip() + f" against {comparison.baseline}"
            svg = draw_gains(own, title=title, key=f"gains-{comparison.arm}-{comparison.baseline}-{scale or 'none'}")
            figures.append(make_figure(svg, "Lines are 95 % intervals over cases; hollow: a run looks failed."))
    worse = [
        f"{gain.arm.column} on {gain.arm.dataset}: {gain.gain:+.4f}"
        for gain in summary.gains
        if gain.gain is not None and gain.gain < 0
    ]
    items = "".join(f"<li>{escape(text)}</li>" for text in worse)
    return "".join(
        [
            "<h2>Gains</h2>",
            *figures,
            "<h3>Over all datasets</h3>",
            make_table(build_overall_table(summary.overall, has_failed_runs=True)),
            "<h3>Without runs that look failed</h3>",
            make_table(build_overall_table(summary.overall, has_failed_runs=False)),
            "<h3>Per dataset</h3>",
            make_table(build_gain_table(summary.gains)),
            f"<h3>Made worse</h3><ul>{items}</ul>" if items else "<p>No dataset was made worse.</p>",
        ]
    )


def _make_groups(summary: StudySummary) -> str:
    tables = build_group_tables(summary.groups)
    return "<h2>Groups</h2>" + "".join(f"<h3>{escape(table.title)}</h3>{make_table(table)}" for table in tables)


def _make_datasets(summary: StudySummary) -> str:
    parts = [
        f"<h3>{escape(dataset.name)}</h3>" + make_facts(_list_facts(dataset, summary))
        for dataset in summary.manifest.datasets
    ]
    return "<h2>Datasets</h2>" + "".join(parts)


def _list_facts(dataset: StudyDataset, summary: StudySummary) -> list[tuple[str, str]]:
    targets = [f"{label}: {name_target(dataset, label, summary.pretraining_labels)}" for label in dataset.label_names]
    return [
        ("modality", dataset.modality or UNKNOWN),
        ("region", dataset.region or UNKNOWN),
        ("size", f"{dataset.size}, {len(dataset.case_ids)} cases"),
        ("labels", ", ".join(targets)),
        ("source", dataset.source or UNKNOWN),
        ("licence", dataset.licence or UNKNOWN),
    ]


def _make_cells(summary: StudySummary) -> str:
    table = make_table(build_cell_table(summary.result.cells))
    return f"<h2>Cells</h2><details><summary>How every cell stands</summary>{table}</details>"


def _make_rules() -> str:
    return "<h2>How it is counted</h2>" + "".join(f"<p>{escape(rule)}</p>" for rule in RULES)


def _make_commands(summary: StudySummary) -> str:
    commands = summary.result.compare_commands
    if not commands:
        return ""
    items = "".join(f"<li><code>{escape(command)}</code></li>" for command in commands)
    return f"<h2>One pair at a time</h2><details><summary>{len(commands)} commands</summary><ul>{items}</ul></details>"
