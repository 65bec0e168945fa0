"""`stu train`: nnU-Net's loop with STU-Net."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stu_pipeline.cli import train_options as flags
from stu_pipeline.cli.console import Console, format_seconds
from stu_pipeline.cli.options import (
    DatasetArgument,
    DebugOption,
    JsonOption,
    QuietOption,
    VerboseOption,
    WorkersOption,
    open_console,
)
from stu_pipeline.cli.train_options import parse_folds
from stu_pipeline.cli.train_view import TrainingView, format_dice
from stu_pipeline.errors import UsageError
from stu_pipeline.nnunet.environment import is_first_process
from stu_pipeline.training.config import TrainConfig

if TYPE_CHECKING:
    from stu_pipeline import TrainResult

_DEFAULTS = TrainConfig(dataset="DATASET")


def train_command(
    dataset: DatasetArgument,
    fold: flags.FoldOption = "0",
    scale: flags.ScaleOption = _DEFAULTS.scale,
    plan: flags.PlanOption = _DEFAULTS.plan_name,
    configuration: flags.ConfigurationOption = _DEFAULTS.configuration,
    pretrained: flags.PretrainedOption = _DEFAULTS.pretrained,
    sidecar: flags.SidecarOption = _DEFAULTS.sidecar,
    recipe: flags.RecipeOption = _DEFAULTS.recipe,
    head_mapping: flags.HeadMappingOption = _DEFAULTS.head_mapping,
    channel_mapping: flags.ChannelMappingOption = _DEFAULTS.channel_mapping,
    augment: flags.AugmentOption = _DEFAULTS.augment,
    mirror: flags.MirrorOption = _DEFAULTS.mirror,
    epochs: flags.EpochsOption = _DEFAULTS.num_epochs,
    iterations: flags.IterationsOption = _DEFAULTS.num_iterations,
    lr: flags.LearningRateOption = _DEFAULTS.learning_rate,
    warmup: flags.WarmupOption = _DEFAULTS.warmup_epochs,
    ema: flags.EmaOption = _DEFAULTS.ema_decay,
    patience: flags.PatienceOption = _DEFAULTS.patience,
    seed: flags.SeedOption = _DEFAULTS.seed,
    precision: flags.PrecisionOption = _DEFAULTS.precision,
    device: flags.DeviceOption = _DEFAULTS.device,
    gpus: flags.GpusOption = _DEFAULTS.num_gpus,
    shard: flags.ShardOption = _DEFAULTS.shard,
    compile: flags.CompileOption = _DEFAULTS.compile,
    deterministic: flags.DeterministicOption = _DEFAULTS.deterministic,
    resume: flags.ResumeOption = _DEFAULTS.resume,
    force: flags.ForceOption = _DEFAULTS.force,
    checkpoint_minutes: flags.CheckpointMinutesOption = _DEFAULTS.checkpoint_minutes,
    track: flags.TrackOption = None,
    watch: flags.WatchOption = False,
    workers: WorkersOption = _DEFAULTS.num_workers,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Train one or several folds of a plan; run it again and it continues.

    For example:

    stu train 4 --scale B --fold 0

    stu train 4 --scale B --fold 0 --watch

    stu train 4 --scale L --fold 0,1,2,3,4 --gpus 5

    stu train 4 --scale B --fold 0 --pretrained base_ep4k.model

    stu train Dataset004_Hippocampus --scale S --fold 0,1,2,3,4 --epochs 200 --device cpu
    """
    configs = [
        TrainConfig(
            dataset=dataset,
            fold=one,
            scale=scale,
            plan_name=plan,
            configuration=configuration,
            num_epochs=epochs,
            num_iterations=iterations,
            learning_rate=lr,
            precision=precision,
            device=device,
            resume=resume,
            force=force,
            seed=seed,
            deterministic=deterministic,
            num_workers=workers,
            augment=augment,
            compile=compile,
            mirror=mirror,
            checkpoint_minutes=checkpoint_minutes,
            num_gpus=gpus,
            shard=shard,
            warmup_epochs=warmup,
            ema_decay=ema,
            patience=patience,
            pretrained=pretrained,
            sidecar=sidecar,
            recipe=recipe,
            head_mapping=head_mapping,
            channel_mapping=channel_mapping,
            trackers=flags.parse_trackers(track),
        )
        for one in parse_folds(fold)
    ]
    console = open_console(json=json, verbose=verbose, quiet=quiet)
    if watch:
        _watch(console, configs)
        return
    results = _train_all(console, configs)
    if is_first_process():  # the others that torchrun started have the same to say
        _show_results(console, results)


def _train_all(console: Console, configs: list[TrainConfig]) -> list[TrainResult]:
    from stu_pipeline.training.train import train_folds

    if len(configs) > 1 and (configs[0].num_gpus or 1) > 1:
        return train_folds(configs, listen_to=lambda name: TrainingView(console, prefix=f"{name}  ").listen)
    view = TrainingView(console)
    results: list[TrainResult] = []
    for config in configs:
        with view:
            result = train_folds([config], listen_to=lambda name: view.listen)[0]
        results.append(result)
    return results


def _show_results(console: Console, results: list[TrainResult]) -> None:
    for result in results:
        state = "already complete" if result.was_finished else f"done in {format_seconds(result.elapsed_s)}"
        start = "" if result.pretrained is None else f", begun with '{result.pretrained}'"
        dice = format_dice(result.mean_dice)
        console.show(f"fold {result.fold} {state}, mean Dice {dice}{start}, in {result.run_folder}")
    last = results[-1]
    rows = [
        [f"fold {result.fold}", *map(format_dice, result.dice.values()), format_dice(result.mean_dice)]
        for result in results
    ]
    console.show_table("Dice of the final validation", ["", *last.dice, "mean"], rows)
    if last.cross_validation is not None:
        console.show(f"all folds are there, summary: {last.cross_validation}")
    next_command = f"stu predict -i FOLDER -o FOLDER -m {last.model_folder}"
    console.finish(results[0] if len(results) == 1 else {"folds": results}, next_command=next_command)


def _watch(console: Console, configs: list[TrainConfig]) -> None:
    from stu_pipeline.training.story.watch import follow_training

    if len(configs) > 1:
        raise UsageError("--watch follows one fold", hint="name it with --fold N; each fold can be watched by itself")
    with TrainingView(console) as view:
        result = follow_training(configs[0], listen=view.listen)
    console.show(f"fold {result.fold} is finished, mean Dice {format_dice(result.mean_dice)}, in {result.run_folder}")
    console.finish(result)
