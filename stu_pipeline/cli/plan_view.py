"""How a plan is shown: the scales, the reasons, the forecast, and where the files go."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stu_pipeline.cli.console import Console
    from stu_pipeline.planning.config import ConfigurationForecast, PlanResult

# Column and form of each number, in the order shown.
_FORECASTS = {
    "vram_gib": ("VRAM GiB", "{:.1f}"),
    "seconds_per_epoch": ("s/epoch", "{:.3g}"),
    "hours_total": ("hours/fold", "{:.3g}"),
    "host_ram_gib": ("RAM GiB", "{:.1f}"),
    "disk_gib": ("data GiB", "{:.2f}"),
    "checkpoint_gib": ("checkpoints GiB", "{:.2f}"),
    "predict_ram_gib": ("RAM/case GiB", "{:.1f}"),
    "predict_seconds": ("s/case", "{:.3g}"),
}
_SOURCES = {
    "given": "as given",
    "plan": "as in the existing plan, --gpu-memory changes it",
    "detected": "of this machine's GPU",
    "default": "no GPU found, --gpu-memory changes it",
}


def show_plan(console: Console, result: PlanResult) -> None:
    """Show the table of scales, the reasons, the forecast and where the files go."""
    _show_scales(console, result)
    console.show("")
    _show_configurations(console, result)
    console.show("")
    console.show(f"folds: {result.splits}")
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
    _show_weights(console, result)
    for line in result.choice.alternatives:
        console.show(f"  {line}")


def _show_weights(console: Console, result: PlanResult) -> None:
    start = result.pretrained
    if start is None:
        return
    console.show(f"weights: {start.file}, scale {start.scale}, known from {start.source}")
    known = {
        "spacing": _spacing(start.spacing_mm) + " mm" if start.spacing_mm else "",
        "patch": _by(start.patch_voxels) if start.patch_voxels else "",
        "strides": " ".join(_by(stride) for stride in start.strides[1:]) if start.strides else "",
        "normalisation": ", ".join(dict.fromkeys(start.normalization_schemes or ())),
    }
    listed = [f"{name} {text or 'unknown'}" for name, text in known.items()]
    console.show(f"  trained with {', '.join(listed)}")
    use = "taken" if start.takes_geometry else "not taken: planned for this dataset, as the STU-Net authors advise"
    console.show(f"  their spacing, patch and strides are {use}")


def _show_configurations(console: Console, result: PlanResult) -> None:
    rows = [
        [
            item.name,
            _by(item.patch),
            str(item.batch),
            _execution(item),
            _spacing(item.spacing_mm),
            item.data_identifier,
        ]
        for item in result.configurations
    ]
    console.show(f"plan {result.plan_name}, {result.num_cases} case{'s' * (result.num_cases != 1)}")
    console.show_table("", ["configuration", "patch", "batch", "on the GPU", "spacing mm", "data"], rows)
    console.show("")
    _show_decisions(console, result)
    console.show("")
    _show_forecast(console, result)


def _show_decisions(console: Console, result: PlanResult) -> None:
    item = next(item for item in result.configurations if item.name == result.default_configuration)
    console.show(f"how {item.name} was decided")
    for line in item.decisions:
        console.show(f"  {line}")


def _show_forecast(console: Console, result: PlanResult) -> None:
    rows = [[item.name, *(_FORECASTS[name][1].format(getattr(item, name)) for name in _FORECASTS)]
            for item in result.configurations]  # fmt: skip
    devices = sorted({item.device for item in result.configurations})
    console.show(f"forecast; times on {', '.join(devices)}")
    console.show_table("", ["configuration", *(column for column, _ in _FORECASTS.values())], rows)
    main = next(item for item in result.configurations if item.name == result.default_configuration)
    sources = []
    for kind in ("measured", "published", "inferred"):
        columns = [column for name, (column, _) in _FORECASTS.items() if main.provenance[name] == kind]
        sources += [f"{kind}: {', '.join(columns)}"] if columns else []
    console.show(f"{main.name}, {'; '.join(sources)}")
    console.show(f"forecast of VRAM: {result.forecast_status}")


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in sizes)


def _execution(item: ConfigurationForecast) -> str:
    execution = item.execution
    steps = execution.count_accumulation_steps(item.batch)
    parts = ["all at once" if steps == 1 else f"{execution.micro_batch} at a time, {steps} times"]
    parts += ["checkpointing"] if execution.activation_checkpointing else []
    parts += ["Dice in a pass of its own"] if execution.needs_dice_pass(item.batch) else []
    return ", ".join(parts)


def _spacing(spacing_mm: tuple[float, ...]) -> str:
    return " x ".join(f"{step:.4g}" for step in spacing_mm)
