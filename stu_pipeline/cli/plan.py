"""`stu plan`: flags, planning, preprocessing."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from stu_pipeline.cli import plan_options as flags
from stu_pipeline.cli.options import (
    DebugOption,
    JsonOption,
    QuietOption,
    VerboseOption,
    WorkersOption,
    open_console,
)
from stu_pipeline.cli.plan_view import show_plan
from stu_pipeline.planning.config import PlanConfig, PlanResult

if TYPE_CHECKING:
    from stu_pipeline import PreprocessResult
    from stu_pipeline.cli.console import Console

_DEFAULTS = PlanConfig(dataset="DATASET")


def plan_command(
    dataset: flags.DatasetOrNothing = "",
    scale: flags.ScaleOption = _DEFAULTS.scale,
    gpu_memory: flags.GpuMemoryOption = _DEFAULTS.gpu_memory_gib,
    pretrained: flags.PretrainedOption = _DEFAULTS.pretrained,
    plan: flags.PlanNameOption = None,
    configuration: flags.ConfigurationsOption = None,
    images: flags.ImagesOption = _DEFAULTS.images,
    labels: flags.LabelsOption = _DEFAULTS.labels,
    dataset_name: flags.DatasetNameOption = _DEFAULTS.dataset_name,
    channels: flags.ChannelsOption = _DEFAULTS.channels,
    folds: flags.FoldsOption = _DEFAULTS.num_folds,
    group_by: flags.GroupByOption = _DEFAULTS.group_by,
    stratify: flags.StratifyOption = _DEFAULTS.stratify,
    probe: flags.ProbeOption = _DEFAULTS.probe,
    dry_run: flags.DryRunOption = _DEFAULTS.dry_run,
    preprocess: flags.PreprocessOption = True,
    force: flags.ForceOption = _DEFAULTS.force,
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

    stu plan --images scans --labels masks --dataset-name Liver --channels CT
    """
    console = open_console(json=json, verbose=verbose, quiet=quiet)
    config = PlanConfig(
        dataset=dataset,
        images=images,
        labels=labels,
        dataset_name=dataset_name,
        channels=channels,
        scale=scale,
        gpu_memory_gib=gpu_memory,
        pretrained=pretrained,
        plan_name=plan,
        configurations=tuple(configuration or ()),
        num_folds=folds,
        group_by=group_by,
        stratify=stratify,
        probe=probe,
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


def name_next_command(config: PlanConfig, result: PlanResult) -> str:
    """Name the command that comes after this one."""
    if config.dry_run and config.images is not None:
        return ""  # there is nothing yet that a short command could name
    chosen = f"--plan {result.plan_name}" if config.plan_name else f"--scale {result.scale}"
    if config.dry_run:
        return shlex.join(_repeat_command(config, result))
    return f"stu train {_name_dataset(config, result)} {chosen} --fold 0"


def _repeat_command(config: PlanConfig, result: PlanResult) -> list[str]:
    """Name the command that writes what a dry run showed."""
    memory = f"{result.gpu_memory_gib:g}"
    words = ["stu", "plan", config.dataset, "--scale", result.scale, "--gpu-memory", memory]
    values = {
        "--plan": config.plan_name,
        "--pretrained": config.pretrained,
        "--folds": config.num_folds,
        "--group-by": config.group_by,
    }
    words += [str(word) for flag, value in values.items() if value is not None for word in (flag, value)]
    words += [word for name in config.configurations for word in ("--configuration", name)]
    return [*words, "--stratify"] if config.stratify else words


def _name_dataset(config: PlanConfig, result: PlanResult) -> str:
    """Call the dataset as the user did, unless it was imported under a name of its own."""
    was_imported = config.images is not None or (
        Path(config.dataset).name != result.dataset and Path(config.dataset).is_dir()
    )
    return result.dataset if was_imported else config.dataset


def _preprocess(console: Console, config: PlanConfig, result: PlanResult) -> PreprocessResult:
    from stu_pipeline import PreprocessConfig, preprocess

    done = preprocess(
        PreprocessConfig(
            dataset=str(result.raw_folder),
            plan_name=result.plan_name,
            configurations=config.configurations or (result.default_configuration,),
            num_workers=config.num_workers,
        ),
        listen=console.listen,
    )
    for name, folder in done.folders.items():
        again = f" ({done.num_redone[name]} of them again)" if done.num_redone[name] else ""
        parts = [f"{done.num_done[name]} cases preprocessed{again}", f"{done.num_reused[name]} were there"]
        parts += [f"{done.num_removed[name]} removed"] if done.num_removed[name] else []
        console.show(f"{name}: {', '.join(parts)}, in {folder}")
    return done
