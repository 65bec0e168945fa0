"""`stu evaluate`: flags, the evaluation, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stu_pipeline.cli.options import DebugOption, JsonOption, QuietOption, VerboseOption, WorkersOption, open_console
from stu_pipeline.evaluation.config import EvaluateConfig

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

    stu evaluate -r truth/liver_001.mha -p mine/liver_001.nii.gz --tolerance 2
    """
    console = open_console(json=json, verbose=verbose, quiet=quiet)
    config = EvaluateConfig(
        reference=reference,
        prediction=prediction,
        output=output,
        dataset_json=labels,
        tolerance_mm=tolerance,
        surface=surface,
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
    console.finish(result)
