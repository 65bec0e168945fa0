"""Write what an evaluation leaves for people: `scores.csv`, `summary.md` and `report.html`.

Reads: the label maps (and images) of at most three cases, to draw them. Writes: the three files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stu_pipeline.errors import DataError
from stu_pipeline.evaluation.cases import CasePair
from stu_pipeline.evaluation.config import CaseResult, EvaluateConfig, EvaluateResult
from stu_pipeline.evaluation.label_choice import ChosenLabels, explain_matching
from stu_pipeline.evaluation.report import ScoreTable
from stu_pipeline.evaluation.reporting.overlays import draw_case, find_image
from stu_pipeline.evaluation.reporting.sections import DrawnCase, make_evaluation_page
from stu_pipeline.evaluation.reporting.tables import build_case_table, build_full_table, show_number, show_range
from stu_pipeline.evaluation.reporting.texts import format_markdown, write_scores_csv
from stu_pipeline.log import Listener, Notice, Progress, ignore_events
from stu_pipeline.records import read_versions
from stu_pipeline.storage import write_text

_SHOWN_VERSIONS = ("stu-pipeline", "nnunetv2", "numpy", "SimpleITK")


def list_report_files(folder: Path) -> tuple[Path, ...]:
    """Name the files of a report."""
    return tuple(folder / name for name in ("scores.csv", "summary.md", "report.html"))


def write_report(
    folder: Path,
    table: ScoreTable,
    result: EvaluateResult,
    config: EvaluateConfig,
    *,
    labels: ChosenLabels,
    listen: Listener = ignore_events,
) -> None:
    """Write the report of an evaluation.

    Args:
        folder: made when missing.
        table: every score.
        result: what was found.
        config: what was compared.
        labels: what is scored.
        listen: receives `Progress` for the pictures, and a `Notice` for one that cannot be drawn.

    Raises:
        StorageError: a file cannot be written.
    """
    scores, summary, page = list_report_files(folder)
    write_text(scores, write_scores_csv(table))
    write_text(summary, write_markdown(result, config))
    pairs = {case.pair.case: case.pair for case in table.cases}
    drawn = []
    chosen = choose_cases(result.cases)
    for done, (role, case) in enumerate(chosen, start=1):
        drawn.append(_draw(role, case, pairs[case.case], images=config.images, labels=labels, listen=listen))
        listen(Progress(step="draw cases", done=done, total=len(chosen), item=case.case))
    versions = read_versions()
    facts = {name: text for name, text in _describe_extra(result)}
    facts["scored with"] = ", ".join(f"{name} {versions[name]}" for name in _SHOWN_VERSIONS if name in versions)
    write_text(page, make_evaluation_page(table, result, config, drawn=drawn, facts=facts))


def choose_cases(cases: Sequence[CaseResult]) -> list[tuple[str, CaseResult]]:
    """Choose the worst, the median and the best case of those with a score, each with its role; fewer when few.

    Args:
        cases: worst first.
    """
    scored = [case for case in cases if case.mean_dice is not None]
    if len(scored) == 1:
        return [("the case", scored[0])]
    chosen = [("worst", scored[0]), ("best", scored[-1])] if scored else []
    if len(scored) > 2:
        chosen.insert(1, ("median", scored[(len(scored) - 1) // 2]))
    return chosen


def write_markdown(result: EvaluateResult, config: EvaluateConfig) -> str:
    """Return the tables as Markdown."""
    low, high = result.mean_dice_ci or (None, None)
    cases = f"{result.num_cases} case{'s' if result.num_cases != 1 else ''}"
    interval = f" (95 % CI {show_range(low, high)})" if low is not None else ""
    head = f"# Evaluation\n\n{cases}, mean Dice {show_number(result.mean_dice)}{interval}.\n"
    labels = format_markdown(build_full_table(result, tolerance_mm=config.tolerance_mm))
    notes = "".join(f"\n- {name}: {text}\n" for name, text in _describe_extra(result))
    return "\n".join([head + notes, labels, format_markdown(build_case_table(result))])


def _describe_extra(result: EvaluateResult) -> list[tuple[str, str]]:
    """Return what a reader must know before the numbers: how labels were matched, and warnings."""
    matching = explain_matching(result.matching) if result.matching is not None else []
    return [*matching, *(("warning", warning) for warning in result.warnings)]


def _draw(
    role: str, case: CaseResult, pair: CasePair, *, images: Path | None, labels: ChosenLabels, listen: Listener
) -> DrawnCase:
    image = find_image(images, case.case)
    if images is not None and image is None:
        listen(
            Notice(text=f"no image of case '{case.case}' in '{images}': its picture has masks alone", is_warning=True)
        )
    try:
        ignore = labels.scored.ignore if labels.scored is not None else None
        overlay = draw_case(pair, image=image, ignore=ignore, common=labels.common)
    except DataError as error:  # changed since it was scored
        listen(Notice(text=f"case '{case.case}' is not drawn: {error}", is_warning=True))
        return DrawnCase(role=role, case=case.case, overlay=None, text=str(error))
    worst = f", worst label {case.worst_label} {show_number(case.worst_dice)}" if case.worst_label else ""
    return DrawnCase(
        role=role, case=case.case, overlay=overlay, text=f"mean Dice {show_number(case.mean_dice)}{worst}; "
    )
