"""`stu plan`: flags, planning, the table of scales, preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stu_pipeline.cli.options import (
    DatasetArgument,
    DebugOption,
    JsonOption,
    QuietOption,
    VerboseOption,
    WorkersOption,
    open_console,
)
from stu_pipeline.planning.config import PlanConfig, PlanResult

if TYPE_CHECKING:
    from stu_pipeline import PreprocessResult
    from stu_pipeline.cli.console import Console

_DEFAULTS = PlanConfig(dataset="")
_SOURCES = {
    "given": "as given",
    "plan": "as in the existing plan, --gpu-memory changes it",
    "detected": "of this machine's GPU",
    "default": "no GPU found, --gpu-memory changes it",
}


def plan_command(
    dataset: DatasetArgument,
    scale: Annotated[str, typer.Option("--scale", help="auto, S, B, L or H.")] = _DEFAULTS.scale,
    gpu_memory: Annotated[
        float | None,
        typer.Option("--gpu-memory", help="GPU memory to plan for in GiB (default: the GPU here, else 8)."),
    ] = _DEFAULTS.gpu_memory_gib,
    pretrained: Annotated[
        Path | None, typer.Option("--pretrained", help="Weights the training will start from; decides the auto scale.")
    ] = _DEFAULTS.pretrained,
    plan: Annotated[str | None, typer.Option("--plan", help="Name of the plan (default: stu<scale>Plans).")] = None,
    configuration: Annotated[
        list[str] | None,
        typer.Option(
            "--configuration", help="What to preprocess, repeatable (default: 3d_fullres, or 2d for flat data)."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, write nothing.")] = _DEFAULTS.dry_run,
    preprocess: Annotated[
        bool, typer.Option("--preprocess/--no-preprocess", help="Preprocess the cases once the plan is written.")
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a plan that trainings used, and preprocess finished cases again.")
    ] = _DEFAULTS.force,
    workers: WorkersOption = _DEFAULTS.num_workers,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Check a dataset, choose scale, patch and batch, write the plan and preprocess; run it again and it continues.

    For example:

    stu plan Dataset004_Hippocampus

    stu plan 4 --scale L --gpu-memory 24 --dry-run
    """
    console = open_console(json=json, verbose=verbose, quiet=quiet)
    config = PlanConfig(
        dataset=dataset,
        scale=scale,
        gpu_memory_gib=gpu_memory,
        pretrained=pretrained,
        plan_name=plan,
        configurations=tuple(configuration or ()),
        dry_run=dry_run,
        force=force,
        num_workers=workers,
    )
    from stu_pipeline import plan as make_plan

    result = make_plan(config, listen=console.listen)
    show_plan(console, result)
    preprocessed = None
    if preprocess and not dry_run:
        preprocessed = _preprocess(console, config, result)
    document = {"plan": result, "preprocess": preprocessed}
    console.finish(document, next_command=name_next_command(config, result))


def show_plan(console: Console, result: PlanResult) -> None:
    """Show the table of scales, the reasons, the forecast and where the files go."""
    _show_scales(console, result)
    console.show("")
    _show_configurations(console, result)
    console.show("")
    console.show(f"plan ({result.action}): {result.plan_file}")
    console.show(f"preprocessed data: {result.preprocessed_folder}")
    console.show(f"results: {result.results_folder}")
    roots = (result.preprocessed_folder.parent, result.results_folder.parent)
    if roots[0].parent == roots[1].parent:
        console.show(f"workspace: {roots[0].parent} (nnUNet_preprocessed and nnUNet_results choose other places)")


def _show_scales(console: Console, result: PlanResult) -> None:
    memory = f"{result.gpu_memory_gib:.1f} GiB GPU memory ({_SOURCES[result.gpu_memory_source]})"
    rows = [
        [
            ("* " if row.is_chosen else "  ") + row.scale,
            _by(row.patch),
            str(row.batch),
            f"{row.num_parameters / 1e6:.1f} M",
            f"{row.forecast_gib:.1f}",
            "yes" if row.fits else "no",
            row.why,
        ]
        for row in result.choice.rows
    ]
    console.show(f"{result.dataset}, {result.default_configuration}, {memory}")
    console.show_table("", ["scale", "patch", "batch", "parameters", "VRAM GiB", "fits", "why"], rows)
    console.show(f"chosen: {result.choice.reason}")
    for line in result.choice.alternatives:
        console.show(f"  {line}")


def _show_configurations(console: Console, result: PlanResult) -> None:
    rows = [
        [
            item.name,
            _by(item.patch),
            str(item.batch),
            _spacing(item.spacing_mm),
            f"{item.vram_gib:.1f}",
            f"{item.disk_gib:.2f}",
            item.data_identifier,
        ]
        for item in result.configurations
    ]
    console.show(f"plan {result.plan_name}, {result.num_cases} case{'s' * (result.num_cases != 1)}")
    console.show_table("", ["configuration", "patch", "batch", "spacing mm", "VRAM GiB", "disk GiB", "data"], rows)
    console.show(f"forecast of VRAM: {result.forecast_status}")


def name_next_command(config: PlanConfig, result: PlanResult) -> str:
    """Name the command that comes after this one."""
    chosen = f"--plan {result.plan_name}" if config.plan_name else f"--scale {result.scale}"
    if config.dry_run:
        name = f" --plan {config.plan_name}" if config.plan_name else ""
        return f"stu plan {config.dataset} --scale {result.scale} --gpu-memory {result.gpu_memory_gib:g}{name}"
    return f"stu train {config.dataset} {chosen} --fold 0"


def _preprocess(console: Console, config: PlanConfig, result: PlanResult) -> PreprocessResult:
    from stu_pipeline import PreprocessConfig, preprocess

    done = preprocess(
        PreprocessConfig(
            dataset=config.dataset,
            plan_name=result.plan_name,
            configurations=config.configurations or (result.default_configuration,),
            num_workers=config.num_workers,
            force=config.force,
        ),
        listen=console.listen,
    )
    for name, folder in done.folders.items():
        console.show(
            f"{name}: {done.num_done[name]} cases preprocessed, {done.num_reused[name]} were there, in {folder}"
        )
    return done


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in sizes)


def _spacing(spacing_mm: tuple[float, ...]) -> str:
    return " x ".join(f"{step:.4g}" for step in spacing_mm)
