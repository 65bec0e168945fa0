"""`stu evaluate`: flags, the evaluation, tables."""

from __future__ import annotations

import shlex
from pathlib import Path

from stu_pipeline.cli.evaluate_options import (
    AllowMissingOption,
    ImagesOption,
    LabelsOption,
    LesionIouOption,
    LesionSizeOption,
    LesionsOption,
    MappingOption,
    OutputOption,
    PredictionLabelsOption,
    PredictionOption,
    ReferenceOption,
    ReportOption,
    SurfaceOption,
    ToleranceOption,
)
from stu_pipeline.cli.options import DebugOption, JsonOption, QuietOption, VerboseOption, WorkersOption, open_console
from stu_pipeline.evaluation.config import EvaluateConfig, EvaluateResult

_DEFAULTS = EvaluateConfig(reference=Path(), prediction=Path())


def evaluate_command(
    reference: ReferenceOption,
    prediction: PredictionOption,
    output: OutputOption = _DEFAULTS.output,
    report: ReportOption = _DEFAULTS.report,
    images: ImagesOption = _DEFAULTS.images,
    allow_missing: AllowMissingOption = _DEFAULTS.allow_missing,
    labels: LabelsOption = _DEFAULTS.dataset_json,
    prediction_labels: PredictionLabelsOption = _DEFAULTS.prediction_labels,
    mapping: MappingOption = _DEFAULTS.mapping,
    tolerance: ToleranceOption = _DEFAULTS.tolerance_mm,
    surface: SurfaceOption = _DEFAULTS.surface,
    lesions: LesionsOption = _DEFAULTS.lesions,
    lesion_iou: LesionIouOption = _DEFAULTS.lesion_iou,
    lesion_size: LesionSizeOption = _DEFAULTS.lesion_size_mm3,
    workers: WorkersOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Score predicted label maps: Dice, HD95 and NSD per case and label, with confidence intervals.

    For example:

    stu evaluate -r Dataset004_Hippocampus/labelsTr -p predictions

    stu evaluate -r labelsTs -p predictions --report report --images imagesTs

    stu evaluate -r truth/liver_001.mha -p mine/liver_001.nii.gz --tolerance 2

    stu evaluate -r Dataset009_Spleen/labelsTr -p predictions --mapping mapping.json
    """
    console = open_console(json=json, verbose=verbose, quiet=quiet)
    config = EvaluateConfig(
        reference=reference,
        prediction=prediction,
        output=output,
        report=report,
        images=images,
        dataset_json=labels,
        prediction_labels=prediction_labels,
        mapping=mapping,
        tolerance_mm=tolerance,
        surface=surface,
        lesions=lesions,
        lesion_iou=lesion_iou,
        lesion_size_mm3=lesion_size,
        allow_missing=allow_missing,
        num_workers=workers,
    )
    from stu_pipeline.evaluation.evaluate import evaluate
    from stu_pipeline.evaluation.report import build_label_table, build_worst_table

    result = evaluate(config, listen=console.listen)
    for table in (build_label_table(result, tolerance_mm=tolerance), build_worst_table(result)):
        console.show_table(table.title, table.columns, table.rows)
    if result.summary_path is not None:
        console.show(f"scores: {result.summary_path}")
    if result.report_files:
        console.show(f"page: {result.report_files[-1]}")
    console.finish(result, next_command=_choose_next(config, result))


def _choose_next(config: EvaluateConfig, result: EvaluateResult) -> str:
    if not result.report_files:
        places = f"-r {shlex.quote(str(config.reference))} -p {shlex.quote(str(config.prediction))}"
        flags = [
            f"{flag} {shlex.quote(str(value))}"
            for flag, value in (
                ("--labels", config.dataset_json),
                ("--prediction-labels", config.prediction_labels),
                ("--mapping", config.mapping),
            )
            if value is not None
        ]
        return " ".join(["stu evaluate", places, *flags, "--report report"])
    if result.summary_path is not None:
        return f"stu compare {shlex.quote(str(result.summary_path))} OTHER_RUN"
    return ""
