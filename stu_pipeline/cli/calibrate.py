"""`stu calibrate`: flags, the calibration, tables of what was learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stu_pipeline import CalibrateConfig
from stu_pipeline.cli.calibrate_options import (
    AcceptDiceOption,
    ConfigurationOption,
    DatasetOption,
    DeviceOption,
    ErrorRateOption,
    ModelOption,
    PlanOption,
    PostprocessingOption,
    PrecisionOption,
    QualityOption,
    ReadersOption,
    ScaleOption,
    StepOption,
    TtaOption,
    choose_model,
)
from stu_pipeline.cli.console import Console
from stu_pipeline.cli.options import DebugOption, JsonOption, QuietOption, VerboseOption, open_console

_DEFAULTS = CalibrateConfig(model=Path())
_COLUMNS = ["label", "cases", "error", "of the mean", "of soft Dice", "rank correlation", "worst fifth (AUROC)"]


def calibrate_command(
    model: ModelOption = None,
    dataset: DatasetOption = _DEFAULTS.dataset,
    scale: ScaleOption = None,
    plan: PlanOption = None,
    configuration: ConfigurationOption = None,
    tta: TtaOption = _DEFAULTS.tta,
    step: StepOption = _DEFAULTS.step,
    device: DeviceOption = _DEFAULTS.device,
    precision: PrecisionOption = _DEFAULTS.precision,
    error_rate: ErrorRateOption = _DEFAULTS.error_rate,
    accept_dice: AcceptDiceOption = _DEFAULTS.accept_dice,
    quality: QualityOption = _DEFAULTS.quality,
    postprocessing: PostprocessingOption = _DEFAULTS.postprocessing,
    workers: ReadersOption = _DEFAULTS.num_workers,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Learn from a model's cross-validation what Dice to expect of its masks, and how to clean them up.

    For example:

    stu calibrate -d Dataset004_Hippocampus --scale B

    stu calibrate -m MODEL_FOLDER --error-rate 0.05 --accept-dice 0.8
    """
    console = open_console(json=json, verbose=verbose, quiet=quiet)
    config = CalibrateConfig(
        model=choose_model(model, dataset, scale=scale, plan=plan, configuration=configuration),
        dataset=dataset,
        tta=tta,
        step=step,
        device=device,
        precision=precision,
        error_rate=error_rate,
        accept_dice=accept_dice,
        quality=quality,
        postprocessing=postprocessing,
        num_workers=workers,
    )
    from stu_pipeline import calibrate

    result = calibrate(config, listen=console.listen)
    if result.quality is not None:
        _show_quality(console, result.quality)
    if result.postprocessing is not None:
        kept = [str(rule["label"]) for rule in result.postprocessing["rules"]]
        console.show(f"cleans up: {', '.join(kept) or 'nothing, it does not help'}")
    for file in (result.quality_file, result.postprocessing_file):
        if file is not None:
            console.show(f"written: {file}")
    console.finish(result, next_command=f"stu predict -i INPUT -o OUTPUT -m {config.model}")


def _show_quality(console: Console, quality: dict[str, Any]) -> None:
    evaluation = quality["evaluation"]
    rows = [_make_row(name, numbers) for name, numbers in evaluation["labels"].items()]
    rows.append(_make_row("all", evaluation["total"]))
    console.show_table("Expected Dice of cases that it had not seen", _COLUMNS, rows)
    useful = "useful" if evaluation["is_useful"] else "not useful, predictions go without"
    console.show(
        f"{useful}: error smaller than the better baseline's by {evaluation['gain']:.4f} Dice "
        f"(95 %: at least {evaluation['gain_at_least']:.4f})"
    )
    if evaluation["accepted"] is not None:
        console.show(
            f"accepts {evaluation['accepted']:.0%} of the cases; {evaluation['accepted_wrongly']:.1%} of all are "
            f"accepted though a label is too bad (asked for: at most {quality['error_rate']:.0%})"
        )


def _make_row(name: str, numbers: dict[str, Any]) -> list[str]:
    return [
        name,
        str(numbers["num_cases"]),
        f"{numbers['mae']:.4f}",
        f"{numbers['mae_mean']:.4f}",
        f"{numbers['mae_soft_dice']:.4f}",
        _show(numbers["spearman"]),
        _show(numbers["auroc"]),
    ]


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
