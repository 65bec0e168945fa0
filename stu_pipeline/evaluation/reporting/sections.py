"""The sections of the page about one evaluation."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from stu_pipeline.evaluation.config import EvaluateConfig, EvaluateResult
from stu_pipeline.evaluation.report import ScoreTable
from stu_pipeline.evaluation.reporting import charts
from stu_pipeline.evaluation.reporting.overlays import (
    BOTH_COLOUR,
    PREDICTION_COLOUR,
    REFERENCE_COLOUR,
    Overlay,
)
from stu_pipeline.evaluation.reporting.page import (
    embed_png,
    escape,
    make_cards,
    make_facts,
    make_figure,
    make_page,
    make_table,
)
from stu_pipeline.evaluation.reporting.tables import build_case_table, build_full_table, show_number, show_range

_EMPTY_NOTE = (
    "If a label is empty in reference and prediction, there is nothing to measure: the case has no score for it and is "
    "in no mean. If exactly one is empty, Dice, IoU and NSD are 0; the distances would be infinite and are left out of "
    "their means (column: one empty). Volume error is predicted minus reference: plus means too much."
)
_INTERVAL_NOTE = (
    "The interval of a mean is a percentile bootstrap over whole cases, that of a median comes from the order of the "
    "values and needs six cases. Both say how far the number could move with other cases of the same kind, and nothing "
    "about other scanners, annotators or trainings."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnCase:
    """A case with its picture, and why it is shown: `worst`, `median` or `best`."""

    role: str
    case: str
    overlay: Overlay | None
    text: str = ""
    """What is said about it, or why there is no picture."""


def make_evaluation_page(
    table: ScoreTable,
    result: EvaluateResult,
    config: EvaluateConfig,
    *,
    drawn: Sequence[DrawnCase],
    facts: dict[str, str],
) -> str:
    """Return the whole page as text.

    Args:
        table: every score.
        result: what was found.
        config: what was compared.
        drawn: cases with pictures.
        facts: further rows of the head, such as versions.
    """
    sections = [
        _write_head(result, config, facts),
        _write_labels(table, result, config),
        _write_plots(table),
        _write_drawn(drawn),
        _write_cases(result),
        f"<h2>How to read this</h2><p>{escape(_EMPTY_NOTE)}</p><p>{escape(_INTERVAL_NOTE)}</p>"
        f"<p>Compare with another run: <code>stu compare {escape(_name_summary(result))} OTHER</code></p>",
    ]
    return make_page(f"Evaluation of {config.prediction.name}", sections)


def _write_head(result: EvaluateResult, config: EvaluateConfig, facts: dict[str, str]) -> str:
    low, high = result.mean_dice_ci or (None, None)
    worst = result.cases[0] if result.cases else None
    cards = [(show_number(result.mean_dice), "mean Dice")]
    if low is not None:
        cards.append((show_range(low, high), "its 95 % confidence interval"))
    cards += [(str(result.num_cases), "cases"), (str(len(result.labels)), "labels")]
    if worst is not None and worst.mean_dice is not None:
        cards.append((show_number(worst.mean_dice), f"worst case: {worst.case}"))
    rows = [
        ("prediction", str(config.prediction)),
        ("reference", str(config.reference)),
        ("labels", result.labels_from),
        *facts.items(),
    ]
    for names, what in ((result.missing, "no prediction for"), (result.extra, "no reference for")):
        if names:
            rows.append((what, ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")))
    return f"<h1>Evaluation of {escape(config.prediction.name)}</h1>{make_cards(cards)}{make_facts(rows)}"


def _write_labels(table: ScoreTable, result: EvaluateResult, config: EvaluateConfig) -> str:
    dice = table.values_of("Dice")
    names, cases = [label.name for label in table.labels], [case.pair.case for case in table.cases]
    num_drawn = len(charts.choose_rows(dice))
    which = f"the {num_drawn} labels with the lowest median" if num_drawn < len(names) else "every label"
    caption = (
        f"Dice of {which}: the box holds the middle half of the cases, its line is the median, whiskers reach to "
        "1.5 box lengths. Point at a dot for its case."
    )
    built = make_table(build_full_table(result, tolerance_mm=config.tolerance_mm), num_totals=1, bar_column=1)
    return f"<h2>Labels</h2>{make_figure(charts.draw_dice(dice, names, cases), caption)}{built}"


def _write_plots(table: ScoreTable) -> str:
    reference, predicted = table.values_of("volume_ref_ml"), table.values_of("volume_pred_ml")
    names, cases = [label.name for label in table.labels], [case.pair.case for case in table.cases]
    against = charts.draw_volumes(reference, predicted, names, cases)
    if not against:
        return ""
    band = "Band: where 95 % of the differences lie if they are normal. Line: their mean, the bias. Dashed: no error."
    figures = make_figure(against, f"Dashed: equal volumes.{charts.describe_undrawn(reference, predicted)}")
    figures += make_figure(charts.draw_bland_altman(reference, predicted, names, cases), band)
    return f'<h2>Volumes</h2><div class="pair">{figures}</div>'


def _write_drawn(drawn: Sequence[DrawnCase]) -> str:
    if not drawn:
        return ""
    legend = "".join(
        f'<span class="key" style="border-color:rgb{colour};background:rgb{colour}"></span>{name}'
        for colour, name in (
            (REFERENCE_COLOUR, "reference"),
            (PREDICTION_COLOUR, "prediction"),
        )
    )
    both = f'<span class="key" style="border-color:rgb{BOTH_COLOUR};outline:1px solid var(--line)"></span>both'
    note = (
        "Tinted: missed (colour of the reference), too much (colour of the prediction), or the wrong label (both). "
        "Each plane is the slice with the most wrong voxels; the patient's right is on the left."
    )
    figures = "".join(_write_figure(case) for case in drawn)
    return f'<h2>Cases to look at</h2><p>{legend}{both}</p><p class="faint">{note}</p>{figures}'


def _write_figure(case: DrawnCase) -> str:
    title = f"<h3>{escape(case.role.capitalize())}: {escape(case.case)}</h3>"
    if case.overlay is None:
        return f'{title}<p class="faint">not drawn: {escape(case.text)}</p>'
    slices = ", ".join(f"{plane} slice {index}" for plane, index in case.overlay.slices)
    behind = "" if case.overlay.with_image else "; masks alone, without the image"
    note = f" ({case.overlay.note})" if case.overlay.note else ""
    caption = escape(f"{case.text}{slices}{behind}{note}")
    image = f'<img alt="{escape(case.case)}: {escape(slices)}" src="{embed_png(case.overlay.png)}">'
    return f'{title}<figure class="overlay">{image}<figcaption>{caption}</figcaption></figure>'


def _write_cases(result: EvaluateResult) -> str:
    shown = build_case_table(result)
    text = f"<h2>{escape(shown.title)}</h2>{make_table(shown, bar_column=1)}"
    if len(shown.rows) < len(result.cases):
        full = make_table(build_case_table(result, limit=None), bar_column=1)
        text += f"<details><summary>all {len(result.cases)} cases</summary>{full}</details>"
    return text


def _name_summary(result: EvaluateResult) -> str:
    return shlex.quote(str(result.summary_path)) if result.summary_path else "THIS"
