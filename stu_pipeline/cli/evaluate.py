"""`stu evaluate`: flags, the evaluation, tables."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from stu_pipeline.cli.options import DebugOption, JsonOption, QuietOption, VerboseOption, WorkersOption, open_console
from stu_pipeline.evaluation.config import EvaluateConfig, EvaluateResult

_DEFAULTS = EvaluateConfig(reference=Path(), prediction=Path())


def evaluate_command(
    reference: Annotated[
        Path, typer.Option("-r", "--reference", help="Reference label maps: a folder or one file.", show_default=False)
    ],
    prediction: Annotated[
        Path, typer.Option("-p", "--prediction", help="Predicted label maps: a folder or one file.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Where to write the scores (default: summary.json in the prediction folder)."
        ),
    ] = _DEFAULTS.output,
    report: Annotated[
        Path | None,
        typer.Option(help="Folder for scores.csv, summary.md and report.html, a page with plots and pictures."),
    ] = _DEFAULTS.report,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images, to show them behind the masks in the report.")
    ] = _DEFAULTS.images,
    labels: Annotated[
        Path | None,
        typer.Option(help="The dataset.json that names the labels (default: looked for beside the label maps)."),
    ] = _DEFAULTS.dataset_json,
    tolerance: Annotated[
        float, typer.Option(help="Distance in mm within which a surface counts as met (NSD).")
    ] = _DEFAULTS.tolerance_mm,
    surface: Annotated[
        bool, typer.Option("--surface/--no-surface", help="Measure HD95, ASSD and NSD as well.")
    ] = _DEFAULTS.surface,
    lesions: Annotated[
        bool, typer.Option("--lesions", help="Count connected parts found, missed and invented as well.")
    ] = _DEFAULTS.lesions,
    lesion_iou: Annotated[
        float, typer.Option(help="IoU above which a lesion counts as found (0: a shared voxel).")
    ] = _DEFAULTS.lesion_iou,
    lesion_size: Annotated[
        float, typer.Option(help="Smallest lesion in mm3; smaller parts are not counted.")
    ] = _DEFAULTS.lesion_size_mm3,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Score what is there when a reference has no prediction.")
    ] = _DEFAULTS.allow_missing,
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
    """
    console = open_console(json=json, verbose=verbose, quiet=quiet)
    config = EvaluateConfig(
        reference=reference,
        prediction=prediction,
        output=output,
        report=report,
        images=images,
        dataset_json=labels,
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
        return f"stu evaluate {places} --report report"
    if result.summary_path is not None:
        return f"stu compare {shlex.quote(str(result.summary_path))} OTHER_RUN"
    return ""
