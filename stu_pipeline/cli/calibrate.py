"""`stu calibrate`: flags, the calibration, tables of what was learned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stu_pipeline import CalibrateConfig
from stu_pipeline.cli.console import Console
from stu_pipeline.cli.options import DebugOption, JsonOption, QuietOption, VerboseOption, open_console
from stu_pipeline.errors import UsageError

_DEFAULTS = CalibrateConfig(model=Path())
_COLUMNS = ["label", "cases", "error", "of the mean", "of soft Dice", "rank correlation", "worst fifth (AUROC)"]


def calibrate_command(
    model: Annotated[Path | None, typer.Option("-m", "--model", help="A model folder.", show_default=False)] = None,
    dataset: Annotated[
        str | None,
        typer.Option("-d", "--dataset", help="The dataset it was trained on; without -m also finds the model."),
    ] = _DEFAULTS.dataset,
    scale: Annotated[str | None, typer.Option(help="Without -m: S, B, L or H.")] = None,
    plan: Annotated[str | None, typer.Option(help="Without -m: a plan name instead of the scale.")] = None,
    configuration: Annotated[
        str | None, typer.Option(help="Without -m: 2d, 3d_fullres, ... (default: 3d_fullres, or what there is).")
    ] = None,
    tta: Annotated[
        Literal["full", "auto", "none"], typer.Option(help="As predictions will be made: estimates are for that only.")
    ] = _DEFAULTS.tta,
    step: Annotated[float, typer.Option(help="Distance of two tiles as a share of the patch.")] = _DEFAULTS.step,
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:1, cpu or mps.")] = _DEFAULTS.device,
    precision: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"],
        typer.Option(help="auto: fp16 on a GPU, bf16 on a CPU that computes in it, else fp32."),
    ] = _DEFAULTS.precision,
    error_rate: Annotated[
        float, typer.Option(help="Share of masks that may be worse than their bound.")
    ] = _DEFAULTS.error_rate,
    accept_dice: Annotated[
        float | None,
        typer.Option(help="What every label of an accepted mask must reach (default: 0.1 below its usual Dice)."),
    ] = _DEFAULTS.accept_dice,
    quality: Annotated[
        bool, typer.Option("--quality/--no-quality", help="Learn what Dice to expect of a mask.")
    ] = _DEFAULTS.quality,
    postprocessing: Annotated[
        bool, typer.Option("--postprocessing/--no-postprocessing", help="Learn how to clean up masks.")
    ] = _DEFAULTS.postprocessing,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that read masks; 0: only the main one.")
    ] = _DEFAULTS.num_workers,
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
        model=_choose_model(model, dataset, scale=scale, plan=plan, configuration=configuration),
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


def _choose_model(
    model: Path | None, dataset: str | None, *, scale: str | None, plan: str | None, configuration: str | None
) -> Path:
    if model is not None:
        if scale or plan or configuration:
            raise UsageError("--scale, --plan and --configuration find a model, so they do not go with -m")
        return model.absolute()
    if dataset is None:
        raise UsageError("give a model: either -m MODEL_FOLDER or -d DATASET")
    from stu_pipeline.prediction.find_model import find_model

    return find_model(dataset, scale=scale, plan=plan, configuration=configuration)


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
