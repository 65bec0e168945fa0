"""The flags of `stu train`, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stu_pipeline.errors import UsageError
from stu_pipeline.training.config import (
    AUGMENTATIONS,
    COMPILE_CHOICES,
    DEFAULT_LEARNING_RATE,
    DEFAULT_NUM_EPOCHS,
    DEFAULT_NUM_ITERATIONS,
    DEFAULT_RECIPE,
    RECIPE_NAMES,
    TRACKERS,
)

_FINE_TUNING = "Fine-tuning"
_SCHEDULE = "Schedule"
_MACHINE = "Machine"
_SAFETY = "Continuing and safety"
_SEEING = "Seeing it"
_NO_TRACKER = "none"

FoldOption = Annotated[str, typer.Option("--fold", help="0..4, several as 0,1,2, or all.")]
ScaleOption = Annotated[str | None, typer.Option("--scale", help="S, B, L or H (default: the only plan).")]
PlanOption = Annotated[str | None, typer.Option("--plan", help="Name of the plan, when it is not a scale's own.")]
ConfigurationOption = Annotated[
    str | None,
    typer.Option(
        "--configuration", help="2d, 3d_fullres, 3d_lowres or 3d_cascade_fullres (default: 3d_fullres, or 2d)."
    ),
]
AugmentOption = Annotated[
    str | None,
    typer.Option(
        "--augment",
        help=f"{', '.join(AUGMENTATIONS)}: nnU-Net's transforms batched where the network runs, "
        "nnU-Net's own loader processes, or crops only. [device]",
    ),
]
MirrorOption = Annotated[
    str | None,
    typer.Option(
        "--mirror",
        help="auto: all axes, left and right labels swapped where an axis swaps them; all: no swapping; none; "
        "or the axes z, y, x as numbers: 0,1. Prediction mirrors the same axes. [auto]",
    ),
]

PretrainedOption = Annotated[
    Path | None,
    typer.Option(
        "--pretrained",
        help="Weights to begin with: a released .model, a .pth or a .safetensors. [none: from scratch]",
        rich_help_panel=_FINE_TUNING,
    ),
]
SidecarOption = Annotated[
    Path | None,
    typer.Option(
        "--sidecar", help="The .pkl of a released .model, when it is not beside it.", rich_help_panel=_FINE_TUNING
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help=f"{', '.join(RECIPE_NAMES)}: how the training goes on from these weights. [{DEFAULT_RECIPE}]",
        rich_help_panel=_FINE_TUNING,
    ),
]
HeadMappingOption = Annotated[
    Path | None,
    typer.Option(
        "--head-mapping",
        help="JSON file: which old label each label begins with, where names do not say it.",
        rich_help_panel=_FINE_TUNING,
    ),
]
ChannelMappingOption = Annotated[
    str | None,
    typer.Option(
        "--channel-mapping",
        help="Which old channel each channel begins with: T1=CT,FLAIR=mean.",
        rich_help_panel=_FINE_TUNING,
    ),
]

EpochsOption = Annotated[
    int | None,
    typer.Option(
        "--epochs", help=f"Epochs; the schedule scales along. [{DEFAULT_NUM_EPOCHS}]", rich_help_panel=_SCHEDULE
    ),
]
IterationsOption = Annotated[
    int | None,
    typer.Option(
        "--iterations", help=f"Training steps per epoch. [{DEFAULT_NUM_ITERATIONS}]", rich_help_panel=_SCHEDULE
    ),
]
LearningRateOption = Annotated[
    float | None,
    typer.Option(
        "--lr", help=f"Initial learning rate. [{DEFAULT_LEARNING_RATE}, or the recipe's]", rich_help_panel=_SCHEDULE
    ),
]
WarmupOption = Annotated[
    float | None,
    typer.Option(
        "--warmup",
        help="Epochs in which the learning rate rises from 0. [0, or the recipe's]",
        rich_help_panel=_SCHEDULE,
    ),
]
EmaOption = Annotated[
    float | None,
    typer.Option(
        "--ema",
        help="Keep averaged weights beside the trained ones, with this decay per step: 0.999. [off]",
        rich_help_panel=_SCHEDULE,
    ),
]
PatienceOption = Annotated[
    int | None,
    typer.Option(
        "--patience",
        help="Stop after so many epochs without a better moving average of the Dice. [off]",
        rich_help_panel=_SCHEDULE,
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", help="Seed of weights, samples and augmentation.", rich_help_panel=_SCHEDULE),
]

PrecisionOption = Annotated[
    str, typer.Option("--precision", help="auto, bf16, fp16 or fp32.", rich_help_panel=_MACHINE)
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cuda, cpu or mps.", rich_help_panel=_MACHINE)]
GpusOption = Annotated[
    int | None,
    typer.Option(
        "--gpus",
        help="GPUs here: one fold trains on all of them, of several folds each on one. [1, or as torchrun says]",
        rich_help_panel=_MACHINE,
    ),
]
ShardOption = Annotated[
    bool,
    typer.Option(
        "--shard",
        help="Spread weights and momentum over the GPUs: for a network that fits no single one.",
        rich_help_panel=_MACHINE,
    ),
]
CompileOption = Annotated[
    str,
    typer.Option(
        "--compile",
        help=f"{', '.join(COMPILE_CHOICES)}: torch.compile; auto tries it on CUDA and goes on without where it fails.",
        rich_help_panel=_MACHINE,
    ),
]
DeterministicOption = Annotated[
    bool,
    typer.Option(
        "--deterministic", help="Deterministic kernels; slower, and equal runs are equal.", rich_help_panel=_MACHINE
    ),
]

ResumeOption = Annotated[
    str,
    typer.Option("--resume", help="auto continues the newest valid checkpoint; never.", rich_help_panel=_SAFETY),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Train a finished fold again and replace it.", rich_help_panel=_SAFETY)
]
CheckpointMinutesOption = Annotated[
    float,
    typer.Option(
        "--checkpoint-minutes",
        help="Longest time between checkpoints: what a crash of the machine costs at most.",
        rich_help_panel=_SAFETY,
    ),
]

TrackOption = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        help=f"{', '.join(TRACKERS)} or {_NO_TRACKER}, repeatable (default: tensorboard where it is installed).",
        rich_help_panel=_SEEING,
    ),
]
WatchOption = Annotated[
    bool,
    typer.Option("--watch", help="Follow a fold that another process trains; trains nothing.", rich_help_panel=_SEEING),
]


def parse_trackers(names: list[str] | None) -> tuple[str, ...] | None:
    """Read the values of `--track`; None when there are none, nothing for `none`.

    Raises:
        UsageError: `none` stands beside others.
    """
    if not names:
        return None
    if _NO_TRACKER not in names:
        return tuple(names)
    if len(names) > 1:
        raise UsageError(f"--track {_NO_TRACKER} stands alone, got {', '.join(names)}")
    return ()


def parse_folds(text: str) -> list[int | str]:
    """Read `0`, `0,1,2` or `all`.

    Raises:
        UsageError: anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    folds: list[int | str] = [int(part) if part.isdecimal() else part for part in parts]
    if any(fold != "all" and not isinstance(fold, int) for fold in folds) or len(set(folds)) != len(folds):
        raise UsageError(f"cannot read fold '{text}', expected 0..4, a list like 0,1,2, or all")
    return folds
