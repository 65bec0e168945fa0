"""The page about one comparison."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stu_pipeline.evaluation.comparison import charts
from stu_pipeline.evaluation.comparison.config import CompareResult, PairResult
from stu_pipeline.evaluation.comparison.tables import build_friedman_table, build_pair_table, build_run_table
from stu_pipeline.evaluation.reporting.page import escape, make_cards, make_facts, make_figure, make_page, make_table

Values = NDArray[np.float64]

# Beyond these, the tables say the same in less room.
MAX_DRAWN_PAIRS = 10

_NOTES = (
    "The mean difference is over the cases in which both runs have a finite score. Its interval is a percentile "
    "bootstrap that draws cases, each with the scores of both runs.",
    "p is the two-sided Wilcoxon signed-rank test; cases without a difference are not in it. Corrected means Holm's "
    "correction for testing many labels (and pairs of runs) at once: read that one for a single label.",
    "Effect r is the matched-pairs rank-biserial correlation, from -1 to 1: below 0.1 negligible, below 0.3 small, "
    "below 0.5 medium, else large. dz is the mean difference in standard deviations of the differences. Both are "
    "positive when the second run is better.",
    "All labels together: the mean over the labels of each case, those that every run has a finite score for. A case "
    "in which a run has no score for a label (empty in reference and prediction) is left out for it; a missed label "
    "is worse than any distance.",
    "Where no difference was shown, there may be one: with few cases only large ones can be shown.",
)


def make_comparison_page(result: CompareResult, over_labels: Values) -> str:
    """Return the whole page as text.

    Args:
        result: what was found.
        over_labels: mean over labels `(runs, cases)`, NaN where there is none.
    """
    title = "Comparison of " + ", ".join(run.name for run in result.runs)
    direction = "higher is better" if result.higher_is_better else "lower is better"
    counts = [(str(len(result.cases)), "cases"), (str(len(result.labels)), "labels"), (str(len(result.runs)), "runs")]
    cards = make_cards([(result.metric, direction), *counts])
    sentences = "".join(f'<p class="lead">{escape(pair.sentence)}.</p>' for pair in result.pairs)
    facts = make_facts([(run.name, str(run.path)) for run in result.runs])
    paths = f"<details><summary>where they are</summary>{facts}</details>"
    left_out = "".join(f'<p class="faint">left out: {escape(line)}</p>' for line in result.left_out)
    sections = [
        f"<h1>{escape(title)}</h1>{cards}{sentences}{make_table(build_run_table(result))}{paths}{left_out}",
        _write_friedman(result),
        *[_write_pair(place, pair, result, over_labels) for place, pair in enumerate(result.pairs)],
        "<h2>How to read this</h2>" + "".join(f"<p>{escape(note)}</p>" for note in _NOTES),
    ]
    return make_page(title, sections)


def _write_friedman(result: CompareResult) -> str:
    if not result.friedman:
        return ""
    return f"<h2>Does any run differ</h2>{make_table(build_friedman_table(result))}"


def _write_pair(place: int, pair: PairResult, result: CompareResult, over_labels: Values) -> str:
    text = f"<h2>{escape(pair.second)} against {escape(pair.first)}</h2>"
    table = make_table(build_pair_table(pair, result.metric), num_totals=1)
    if place >= MAX_DRAWN_PAIRS:
        return text + table
    names = [run.name for run in result.runs]
    first, second = over_labels[names.index(pair.first)], over_labels[names.index(pair.second)]
    known = np.flatnonzero(np.isfinite(first) & np.isfinite(second))
    cases = [result.cases[index] for index in known]
    first, second, key = first[known], second[known], f"p{place}"
    above = "above" if result.higher_is_better else "below"
    paired = charts.draw_paired(first, second, pair, cases, metric=result.metric, key=key)
    histogram = charts.draw_histogram(second - first, pair, metric=result.metric, key=key)
    figures = make_figure(
        paired, f"One dot per case, mean over its labels. {pair.second} is better {above} the dashed line."
    )
    figures += make_figure(histogram, "Line: the mean. Band: its 95 % confidence interval. Dashed: no difference.")
    labels = make_figure(
        charts.draw_labels(pair, metric=result.metric, key=key),
        "Mean difference and its 95 % confidence interval per label.",
    )
    return f'{text}<div class="pair">{figures}</div>{table}{labels}'
