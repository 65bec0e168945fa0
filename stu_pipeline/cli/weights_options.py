"""The flags of `stu weights convert`, `export` and `install`, each with its help, and what becomes of their text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stu_pipeline.errors import UsageError

if TYPE_CHECKING:
    from stu_pipeline.transfer.packages.config import Fold

_KNOWN = "What is known of the weights"

FileArgument = Annotated[Path, typer.Argument(help="A released .model, a .pth, or a .safetensors.", show_default=False)]
SourceArgument = Annotated[Path, typer.Argument(help="A model folder, or a file of weights.", show_default=False)]
PackageArgument = Annotated[
    Path, typer.Argument(help="nnU-Net's zip, or a .safetensors with its .json.", show_default=False)
]
SidecarOption = Annotated[
    Path | None,
    typer.Option("--sidecar", help="The .pkl of a .model (default: the one beside it).", rich_help_panel=_KNOWN),
]
PublishedOption = Annotated[
    bool,
    typer.Option(
        "--published", help="These are the released weights: take what is known of them.", rich_help_panel=_KNOWN
    ),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        help="JSON with the names of the outputs in their order, or the dataset.json of the training.",
        rich_help_panel=_KNOWN,
    ),
]
StridesOption = Annotated[
    str | None,
    typer.Option(
        "--strides", help="The five strides, for example 2x2x2,2x2x2,2x2x2,2x2x2,1x1x2.", rich_help_panel=_KNOWN
    ),
]
MirrorOption = Annotated[
    Literal["none", "all"],
    typer.Option("--mirror", help="Which mirrored copies a prediction with the model averages."),
]
DatasetNameOption = Annotated[
    str | None, typer.Option("--dataset-name", help="DatasetNNN_Name among the results, where the model goes.")
]
OutputFolderOption = Annotated[
    Path | None, typer.Option("-o", "--output", help="The model folder to make, instead of a place among the results.")
]
PlanNameOption = Annotated[
    str | None, typer.Option("--plan", help="Name of the plan (default: for example stuSPublishedPlans).")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]

OutputFileOption = Annotated[
    Path, typer.Option("-o", "--output", help="A .safetensors, .zip or .model.", show_default=False)
]
FormOption = Annotated[
    Literal["safetensors", "nnunet-zip", "published"] | None,
    typer.Option("--form", help="What to write (default: what the ending of the output says)."),
]
FoldsOption = Annotated[
    str | None, typer.Option("--folds", help="Which folds, for example 0,1,2 or all (default: all there are).")
]
CheckpointOption = Annotated[
    Literal["final", "best", "latest", "ema"], typer.Option("--checkpoint", help="Which state of a fold.")
]
KeepOptimizerOption = Annotated[
    bool,
    typer.Option("--keep-optimizer", help="Keep the momentum, to go on training; twice the size. In a zip only."),
]
ResultsOption = Annotated[
    Path | None, typer.Option("--results", help="Where models are (default: nnUNet_results, or the workspace's).")
]


def parse_strides(text: str | None) -> tuple[tuple[int, ...], ...] | None:
    """Turn `2x2x2,2x2x2,...` into numbers.

    Raises:
        UsageError: it is something else.
    """
    if text is None:
        return None
    try:
        return tuple(tuple(int(step) for step in stride.split("x")) for stride in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"strides are steps like 2x2x2, got '{text}'", hint="--strides 2x2x2,2x2x2,2x2x2,2x2x2,1x1x2"
        ) from error


def parse_folds(text: str | None) -> tuple[Fold, ...] | None:
    """Turn `0,1,2` or `all` into what a config takes.

    Raises:
        UsageError: it is something else.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part == "all" or (part.isascii() and part.isdecimal()) for part in parts):
        raise UsageError(f"folds are numbers or 'all', got '{text}'", hint="--folds 0,1,2")
    return tuple("all" if part == "all" else int(part) for part in parts)
