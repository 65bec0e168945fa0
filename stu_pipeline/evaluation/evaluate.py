"""Score predicted label maps against references.

Reads: label maps, `dataset.json`; images for the report. Writes: `summary.json`, and a report where asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stu_pipeline.errors import DataError, StuError, UsageError
from stu_pipeline.evaluation.cases import CaseMatch, match_cases
from stu_pipeline.evaluation.config import EvaluateConfig, EvaluateResult
from stu_pipeline.evaluation.exchanged_sides import warn_of_exchanged_sides
from stu_pipeline.evaluation.label_choice import ChosenLabels, choose_labels, describe_matching, explain_matching
from stu_pipeline.evaluation.labels import Label, LabelSet, find_stored_ids, label_values
from stu_pipeline.evaluation.lesions import LesionRule
from stu_pipeline.evaluation.model_spacing import find_model_spacing, warn_of_spacing
from stu_pipeline.evaluation.report import ScoreTable, build_summary, describe_labels, rank_cases
from stu_pipeline.evaluation.reporting.writing import list_report_files, write_report
from stu_pipeline.evaluation.scoring import MAX_FOUND_VALUES, ScoredCase, ScoringRules, score_pairs
from stu_pipeline.evaluation.statistics import bootstrap_interval, mean_over_labels
from stu_pipeline.evaluation.unmarked import drop_unmarked, read_partial_table
from stu_pipeline.log import Listener, Notice, Progress, ignore_events
from stu_pipeline.storage import write_json

__all__ = ["EvaluateConfig", "EvaluateResult", "evaluate"]

SUMMARY_NAME = "summary.json"


def evaluate(config: EvaluateConfig, *, listen: Listener = ignore_events) -> EvaluateResult:
    """Score every case and label, write `summary.json`, and a report where `config.report` names a folder.

    All cases are looked at before a problem is raised, so one run names every bad case; nothing is
    written then.

    Args:
        config: what to compare.
        listen: receives `Progress` per case and `Notice` for cases and labels left out.

    Raises:
        DataError: no cases, missing predictions, unreadable files, differing grids, unknown labels, label lists that
            do not fit each other.
        UsageError: the summary or the report would land among the references, or a mapping lacks a label list.
        StorageError: a file cannot be written.
    """
    chosen = choose_labels(config)
    table_of_marks = read_partial_table(chosen.reference_file)
    match = match_cases(
        config.reference, config.prediction, allow_missing=config.allow_missing, file_ending=chosen.file_ending
    )
    summary_path = _choose_summary_path(config)
    if config.report is not None:
        _require_elsewhere(config.report / "report.html", config, flag="--report FOLDER")
    if config.images is not None and not config.images.exists():
        raise DataError(f"images '{config.images.name}' not found", where=config.images.absolute().parent)
    _tell_left_out(match, listen)
    _tell_matching(chosen, listen)
    cases = _score_all(match, _make_rules(config, chosen), config.num_workers, listen)
    if table_of_marks is not None and chosen.reference is not None:
        listen(Notice(text="labels that nobody marked in a case have no score there (stu_partial_labels)"))
        cases = drop_unmarked(cases, table_of_marks, chosen.reference, chosen.common)
    labels = _choose_labels(chosen.scored, cases)
    table = ScoreTable(cases, labels, with_surface=config.surface, with_lesions=config.lesions)
    warnings = _warn(cases, config.prediction, listen)
    result = _make_result(table, match, config, chosen=chosen, summary_path=summary_path, warnings=warnings)
    if summary_path is not None:
        write_json(summary_path, build_summary(table, result, config))
    if config.report is not None:
        write_report(config.report, table, result, config, labels=chosen, listen=listen)
    return result


def _make_result(
    table: ScoreTable,
    match: CaseMatch,
    config: EvaluateConfig,
    *,
    chosen: ChosenLabels,
    summary_path: Path | None,
    warnings: tuple[str, ...],
) -> EvaluateResult:
    dice = table.values_of("Dice")
    return EvaluateResult(
        summary_path=summary_path,
        num_cases=len(table.cases),
        mean_dice=mean_over_labels(dice),
        mean_dice_ci=bootstrap_interval(dice, seed=config.seed),
        labels=describe_labels(table, seed=config.seed),
        cases=rank_cases(table),
        missing=match.missing,
        extra=match.extra,
        report_files=list_report_files(config.report) if config.report is not None else (),
        labels_from=chosen.source,
        matching=describe_matching(chosen.common),
        warnings=warnings,
    )


def _make_rules(config: EvaluateConfig, chosen: ChosenLabels) -> ScoringRules:
    lesion_rule = LesionRule(min_iou=config.lesion_iou, min_size_mm3=config.lesion_size_mm3) if config.lesions else None
    return ScoringRules(
        labels=chosen.reference,
        tolerance_mm=config.tolerance_mm if config.surface else None,
        reference_ids=find_stored_ids(config.reference),
        prediction_ids=find_stored_ids(config.prediction),
        lesion_rule=lesion_rule,
        prediction_labels=chosen.prediction,
        common=chosen.common,
    )


def _choose_summary_path(config: EvaluateConfig) -> Path | None:
    path = config.output
    if path is None:
        path = config.prediction if config.prediction.is_dir() else None
    if path is None:
        return None
    path = path / SUMMARY_NAME if path.is_dir() else path
    _require_elsewhere(path, config, flag="-o FILE")
    return path


def _require_elsewhere(path: Path, config: EvaluateConfig, *, flag: str) -> None:
    references = config.reference if config.reference.is_dir() else config.reference.parent
    if path.absolute().parent.resolve() == references.resolve():
        raise UsageError(
            f"'{path.name}' would be written among the references",
            where=references,
            hint=f"choose another place with {flag}",
        )


def _tell_left_out(match: CaseMatch, listen: Listener) -> None:
    for names, what in (
        (match.missing, "references without a prediction"),
        (match.extra, "predictions without a reference"),
    ):
        if names:
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            listen(Notice(text=f"left out {len(names)} {what}: {shown}", is_warning=True))


def _tell_matching(chosen: ChosenLabels, listen: Listener) -> None:
    matching = describe_matching(chosen.common)
    if matching is not None:
        for what, which in explain_matching(matching):
            listen(Notice(text=f"{what}: {which}", is_warning=what != "labels matched"))


def _warn(cases: Sequence[ScoredCase], prediction: Path, listen: Listener) -> tuple[str, ...]:
    spacings = [(case.pair.case, case.spacing_mm) for case in cases]
    warnings = (
        *warn_of_spacing(spacings, find_model_spacing(prediction)),
        *warn_of_exchanged_sides((case.pair.case, case.sides) for case in cases),
    )
    for warning in warnings:
        listen(Notice(text=warning, is_warning=True))
    return warnings


def _score_all(
    match: CaseMatch, rules: ScoringRules, num_workers: int | None, listen: Listener
) -> tuple[ScoredCase, ...]:
    scored: list[ScoredCase] = []
    errors: list[DataError] = []
    for done, outcome in enumerate(score_pairs(match.pairs, rules, num_workers=num_workers), start=1):
        if isinstance(outcome, DataError):
            errors.append(outcome)
        elif isinstance(outcome, StuError):
            raise outcome
        else:
            scored.append(outcome)
        item = outcome.pair.case if isinstance(outcome, ScoredCase) else ""
        listen(Progress(step="score", done=done, total=len(match.pairs), item=item))
    if errors:
        raise _join_errors(errors, num_cases=len(match.pairs))
    return tuple(sorted(scored, key=lambda case: case.pair.case))


def _join_errors(errors: Sequence[DataError], *, num_cases: int) -> DataError:
    if len(errors) == 1:
        return errors[0]
    return DataError(
        f"{len(errors)} of {num_cases} cases cannot be scored",
        hint=errors[0].hint,
        details=tuple(sorted(str(error) for error in errors)),
    )


def _choose_labels(declared: LabelSet | None, cases: Sequence[ScoredCase]) -> tuple[Label, ...]:
    if declared is not None:
        return declared.labels
    keys = {int(key) for case in cases for key in case.scores}
    if not keys:
        raise DataError(
            "no label in any reference or prediction, they hold only background", hint="--labels dataset.json"
        )
    if len(keys) > MAX_FOUND_VALUES:
        raise DataError(
            f"the cases have {len(keys)} distinct values, which looks like images, not label maps",
            hint="name the labels with --labels dataset.json",
        )
    return label_values(keys).labels
