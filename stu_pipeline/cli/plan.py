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
from stu_pipeline.errors import UsageError
from stu_pipeline.planning.config import PlanConfig, PlanResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stu_pipeline import PreprocessResult
    from stu_pipeline.cli.console import Console

_DEFAULTS = PlanConfig(dataset="DATASET")


def plan_command(
    datasets: flags.DatasetsOrNothing = None,
    scale: flags.ScaleOption = _DEFAULTS.scale,
    gpu_memory: flags.GpuMemoryOption = _DEFAULTS.gpu_memory_gib,
    spacing: flags.SpacingOption = None,
    patch: flags.PatchOption = None,
    pretrained: flags.PretrainedOption = _DEFAULTS.pretrained,
    sidecar: flags.SidecarOption = _DEFAULTS.sidecar,
    pretrained_geometry: flags.PretrainedGeometryOption = _DEFAULTS.keep_geometry,
    any_normalisation: flags.AnyNormalisationOption = _DEFAULTS.any_normalisation,
    plan: flags.PlanNameOption = None,
    configuration: flags.ConfigurationsOption = None,
    as_union: flags.UnionOption = False,
    union_labels: flags.UnionLabelsOption = _DEFAULTS.union_labels,
    keep_labels_of: flags.KeepLabelsOption = _DEFAULTS.keep_labels_of,
    keep_channel_names: flags.KeepChannelNamesOption = _DEFAULTS.keep_channel_names,
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

    stu plan 4 --pretrained base_ep4k.model --gpu-memory 12

    stu plan 101 105 108 --union --dataset-name Pretraining

    stu plan --images scans --labels masks --dataset-name Liver --channels CT
    """
    console = open_console(json=json, verbose=verbose, quiet=quiet)
    sources = tuple(datasets or ())
    config = PlanConfig(
        dataset="" if as_union else _require_one(sources),
        union=sources if as_union else (),
        union_labels=union_labels,
        keep_labels_of=keep_labels_of,
        keep_channel_names=keep_channel_names,
        images=images,
        labels=labels,
        dataset_name=dataset_name,
        channels=channels,
        scale=scale,
        gpu_memory_gib=gpu_memory,
        pretrained=pretrained,
        sidecar=sidecar,
        keep_geometry=pretrained_geometry,
        any_normalisation=any_normalisation,
        spacing_mm=flags.parse_axes(spacing, "--spacing"),
        patch_voxels=flags.parse_patch(patch),
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
    if config.dry_run:
        return shlex.join(_repeat_command(config, result))
    words = ["stu", "train", _name_dataset(config, result)]
    if config.plan_name or result.pretrained is not None:
        words += ["--plan", result.plan_name]
    else:
        words += ["--scale", result.scale]
    if result.pretrained is not None:
        words += ["--pretrained", str(config.pretrained or result.pretrained.file)]
    return shlex.join([*words, "--fold", "0"])


def _repeat_command(config: PlanConfig, result: PlanResult) -> list[str]:
    """Name the command that writes what a dry run showed."""
    words = ["stu", "plan", *(config.union or (config.dataset,))]
    values = {
        "--scale": None if config.pretrained else result.scale,
        "--gpu-memory": f"{result.gpu_memory_gib:g}",
        "--plan": config.plan_name,
        "--pretrained": config.pretrained,
        "--sidecar": config.sidecar,
        "--spacing": _join(config.spacing_mm),
        "--patch": _join(config.patch_voxels),
        "--dataset-name": config.dataset_name,
        "--union-labels": config.union_labels,
        "--keep-labels-of": config.keep_labels_of,
        "--folds": config.num_folds,
        "--group-by": config.group_by,
    }
    words += [str(word) for flag, value in values.items() if value is not None for word in (flag, value)]
    words += [word for name in config.configurations for word in ("--configuration", name)]
    switches = {
        "--union": bool(config.union),
        "--keep-channel-names": config.keep_channel_names,
        "--pretrained-geometry": config.keep_geometry,
        "--any-normalisation": config.any_normalisation,
        "--stratify": config.stratify,
    }
    return [*words, *(flag for flag, is_set in switches.items() if is_set)]


def _join(numbers: Sequence[float] | None) -> str | None:
    """Write numbers as the flags take them; empty is 'auto'."""
    return None if numbers is None else ",".join(f"{number:g}" for number in numbers) or "auto"


def _require_one(datasets: Sequence[str]) -> str:
    if len(datasets) > 1:
        raise UsageError(
            f"{len(datasets)} datasets are given, and one is planned at a time", hint="--union makes one of them"
        )
    return datasets[0] if datasets else ""


def _name_dataset(config: PlanConfig, result: PlanResult) -> str:
    """Call the dataset as the user did, unless it was imported, or made of several, under a name of its own."""
    was_imported = (
        config.images is not None
        or bool(config.union)
        or (Path(config.dataset).name != result.dataset and Path(config.dataset).is_dir())
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
