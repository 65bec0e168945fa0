"""`stu predict`: flags, the prediction, a table of cases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stu_pipeline.cli.console import Console, format_seconds
from stu_pipeline.cli.options import DebugOption, JsonOption, QuietOption, VerboseOption, WorkersOption, open_console
from stu_pipeline.errors import UsageError
from stu_pipeline.prediction.config import CaseReport, PredictConfig

if TYPE_CHECKING:
    from stu_pipeline.prediction.config import Folds

_DEFAULTS = PredictConfig(input=Path(), output=Path(), models=(Path(),))
_MAX_VOLUMES = 4


def predict_command(
    input: Annotated[Path, typer.Option("-i", "--input", help="A volume or a folder of volumes.", show_default=False)],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Where the masks go: a folder, or a file name.", show_default=False)
    ],
    model: Annotated[
        list[Path] | None,
        typer.Option("-m", "--model", help="A model folder; repeat it for an ensemble.", show_default=False),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("-d", "--dataset", help="Find the model of this dataset instead of -m.")
    ] = None,
    scale: Annotated[str | None, typer.Option(help="With -d: S, B, L or H.")] = None,
    plan: Annotated[str | None, typer.Option(help="With -d: a plan name instead of the scale.")] = None,
    configuration: Annotated[
        str | None, typer.Option(help="2d, 3d_fullres, ... (default: 3d_fullres, or what the model is).")
    ] = _DEFAULTS.configuration,
    folds: Annotated[str, typer.Option(help="Which folds: auto, or for example 0,1,2 or all.")] = "auto",
    checkpoint: Annotated[
        Literal["final", "best", "latest", "ema"],
        typer.Option(help="best and latest also take unfinished folds; ema takes averaged weights."),
    ] = _DEFAULTS.checkpoint,
    tta: Annotated[
        Literal["full", "none"], typer.Option(help="Average mirrored copies, or not (8 times faster in 3D).")
    ] = _DEFAULTS.tta,
    model_weights: Annotated[str | None, typer.Option(help="One weight per model folder, for example 1,2.")] = None,
    step: Annotated[float, typer.Option(help="Distance of two tiles as a share of the patch.")] = _DEFAULTS.step,
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:1, cpu or mps.")] = _DEFAULTS.device,
    precision: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"], typer.Option(help="auto: fp16 on a GPU, fp32 elsewhere.")
    ] = _DEFAULTS.precision,
    probabilities: Annotated[
        Literal["none", "npz"], typer.Option(help="Also write probabilities, as nnUNetv2_ensemble reads them.")
    ] = _DEFAULTS.probabilities,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Predict again what is there already.")] = False,
    report: Annotated[Path | None, typer.Option(help="A further place for the report (JSON).")] = None,
    workers: WorkersOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Turn volumes into label maps with one model or an ensemble. Run it again and it continues.

    For example:

    stu predict -i new_scans -o masks -d Dataset004_Hippocampus --scale B

    stu predict -i scan.nii.gz -o mask.nii.gz -m MODEL_S -m MODEL_B --model-weights 1,2
    """
    console = open_console(json=json, verbose=verbose, quiet=quiet)
    config = PredictConfig(
        input=input,
        output=output,
        models=_choose_models(model, dataset, scale=scale, plan=plan, configuration=configuration),
        folds=_parse_folds(folds),
        checkpoint=checkpoint,
        configuration=configuration,
        tta=tta,
        model_weights=_parse_weights(model_weights),
        step=step,
        device=device,
        precision=precision,
        probabilities=probabilities,
        overwrite=overwrite,
        report=report,
        num_workers=workers,
    )
    from stu_pipeline.prediction.predict import predict

    reports: list[CaseReport] = []

    def listen(event: object) -> None:
        if isinstance(event, CaseReport):
            reports.append(event)
        else:
            console.listen(event)

    try:
        result = predict(config, listen=listen)
    finally:
        _show_cases(console, reports)
    if result.report is not None:
        console.show(f"report: {result.report}")
    console.finish(result, next_command=f"stu evaluate -r REFERENCE -p {output}")


def _choose_models(
    models: list[Path] | None, dataset: str | None, *, scale: str | None, plan: str | None, configuration: str | None
) -> tuple[Path, ...]:
    if models and dataset is None:
        if scale or plan:
            raise UsageError("--scale and --plan belong to -d, not to -m")
        return tuple(path.absolute() for path in models)
    if dataset is None or models:
        raise UsageError("give a model: either -m MODEL_FOLDER or -d DATASET, not both")
    from stu_pipeline.prediction.find_model import find_model

    return (find_model(dataset, scale=scale, plan=plan, configuration=configuration),)


def _parse_folds(text: str) -> Folds:
    if text == "auto":
        return "auto"
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part == "all" or part.isdecimal() for part in parts):
        raise UsageError(f"folds are 'auto', 'all' or numbers, got '{text}'", hint="--folds 0,1,2")
    return tuple("all" if part == "all" else int(part) for part in parts)


def _parse_weights(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"model weights are numbers, got '{text}'", hint="--model-weights 1,2") from error


def _show_cases(console: Console, reports: list[CaseReport]) -> None:
    if not reports:
        return
    rows = [
        [
            report.case,
            report.status,
            format_seconds(report.seconds) if report.status != "skipped" else "-",
            _show_volumes(report.volumes_ml),
            report.error or "; ".join(report.warnings),
        ]
        for report in sorted(reports, key=lambda item: (item.status != "failed", item.case))
    ]
    console.show_table("Cases", ["case", "status", "time", "volume (ml)", "note"], rows)


def _show_volumes(volumes_ml: dict[str, float]) -> str:
    shown = [f"{name} {volume:.3g}" for name, volume in list(volumes_ml.items())[:_MAX_VOLUMES]]
    more = len(volumes_ml) - _MAX_VOLUMES
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
