"""`stu predict`: flags, the prediction, a table of cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from stu_pipeline.cli.console import Console, format_seconds
from stu_pipeline.cli.options import DebugOption, JsonOption, QuietOption, VerboseOption, open_console
from stu_pipeline.cli.predict_options import (
    CheckpointOption,
    ConfigurationOption,
    DatasetOption,
    DeviceOption,
    DicomSegOption,
    DryRunOption,
    EffortOption,
    FoldsOption,
    GpusOption,
    InputOption,
    MaxRamOption,
    ModelOption,
    ModelWeightsOption,
    OutputOption,
    OverwriteOption,
    PerLabelOption,
    PlanOption,
    PostprocessingOption,
    PrecisionOption,
    ProbabilitiesOption,
    ProbabilityBitsOption,
    ReportOption,
    ScaleOption,
    StepOption,
    TtaOption,
    VerifyOption,
    WorkersOption,
    choose_models,
    parse_folds,
    parse_weights,
)
from stu_pipeline.prediction.config import CaseReport, PredictConfig, PredictResult

_DEFAULTS = PredictConfig(input=Path(), output=Path(), models=(Path(),))
_MAX_VOLUMES = 4


def predict_command(
    input: InputOption,
    output: OutputOption,
    model: ModelOption = None,
    dataset: DatasetOption = None,
    scale: ScaleOption = None,
    plan: PlanOption = None,
    configuration: ConfigurationOption = _DEFAULTS.configuration,
    folds: FoldsOption = "auto",
    checkpoint: CheckpointOption = _DEFAULTS.checkpoint,
    tta: TtaOption = _DEFAULTS.tta,
    effort: EffortOption = _DEFAULTS.effort,
    model_weights: ModelWeightsOption = None,
    step: StepOption = _DEFAULTS.step,
    postprocessing: PostprocessingOption = _DEFAULTS.postprocessing,
    device: DeviceOption = _DEFAULTS.device,
    precision: PrecisionOption = _DEFAULTS.precision,
    gpus: GpusOption = None,
    max_ram: MaxRamOption = None,
    dry_run: DryRunOption = False,
    probabilities: ProbabilitiesOption = _DEFAULTS.probabilities,
    probability_bits: ProbabilityBitsOption = _DEFAULTS.probability_bits,
    per_label_files: PerLabelOption = False,
    dicom_seg: DicomSegOption = False,
    report: ReportOption = None,
    overwrite: OverwriteOption = False,
    verify: VerifyOption = False,
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
        models=choose_models(model, dataset, scale=scale, plan=plan, configuration=configuration),
        folds=parse_folds(folds),
        checkpoint=checkpoint,
        configuration=configuration,
        tta=tta,
        effort=effort,
        model_weights=parse_weights(model_weights),
        step=step,
        postprocessing=postprocessing,
        device=device,
        precision=precision,
        gpus=gpus,
        max_ram_gib=max_ram,
        dry_run=dry_run,
        probabilities=probabilities,
        probability_bits=cast(Any, probability_bits),
        per_label_files=per_label_files,
        dicom_seg=dicom_seg,
        report=report,
        overwrite=overwrite,
        verify=verify,
        num_workers=workers,
    )
    _run(console, config)


def _run(console: Console, config: PredictConfig) -> None:
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
    if result.forecast is not None:
        _show_forecast(console, result)
    if result.report is not None:
        console.show(f"report: {result.report}")
    console.finish(result, next_command=_choose_next(config))


def _choose_next(config: PredictConfig) -> str:
    if config.dry_run:
        models = " ".join(f"-m {path}" for path in config.models)
        return f"stu predict -i {config.input} -o {config.output} {models}"
    return f"stu evaluate -r REFERENCE -p {config.output}"


def _show_forecast(console: Console, result: PredictResult) -> None:
    forecast = result.forecast or {}
    for line in forecast.get("lines", ()):
        console.show(line)
    rows = forecast.get("rows", ())
    if rows:
        console.show_table("Forecast", forecast["columns"], rows)


def _show_cases(console: Console, reports: list[CaseReport]) -> None:
    if not reports:
        return
    rows = [
        [
            report.case,
            report.status,
            format_seconds(report.seconds) if report.status != "skipped" else "-",
            _show_volumes(report.volumes_ml),
            report.error or "; ".join((*report.warnings, *report.notes)),
        ]
        for report in sorted(reports, key=lambda item: (item.status != "failed", item.case))
    ]
    console.show_table("Cases", ["case", "status", "time", "volume (ml)", "note"], rows)


def _show_volumes(volumes_ml: dict[str, float]) -> str:
    shown = [f"{name} {volume:.3g}" for name, volume in list(volumes_ml.items())[:_MAX_VOLUMES]]
    more = len(volumes_ml) - _MAX_VOLUMES
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
