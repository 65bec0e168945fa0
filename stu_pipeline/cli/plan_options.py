"""The flags of `stu plan`, each with its help."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from stu_pipeline.errors import UsageError

_IMPORT = "Two folders instead of a dataset"
_FOLDS = "Folds"
_UNION = "Several datasets as one"
_WEIGHTS = "Pretrained weights"

DatasetsOrNothing = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="DATASET",
        help="Id (4), name (Dataset004_Hippocampus) or path (nnU-Net v2, v1, Decathlon); several with --union.",
    ),
]
UnionOption = Annotated[
    bool,
    typer.Option("--union", help="Make one dataset of several; A:0 takes channel 0 of A.", rich_help_panel=_UNION),
]
UnionLabelsOption = Annotated[
    Path | None,
    typer.Option("--union-labels", help="JSON file: which labels of the datasets are one.", rich_help_panel=_UNION),
]
KeepLabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--keep-labels-of",
        help="Weights or model folder whose labels come first, in their order, to teach it more.",
        rich_help_panel=_UNION,
    ),
]
KeepChannelNamesOption = Annotated[
    bool,
    typer.Option(
        "--keep-channel-names",
        help="Normalise as the channel names say (CT as CT), not every image by its own z-score.",
        rich_help_panel=_UNION,
    ),
]
ScaleOption = Annotated[str, typer.Option("--scale", help="auto, S, B, L or H.")]
GpuMemoryOption = Annotated[
    float | None,
    typer.Option("--gpu-memory", help="GPU memory to plan for in GiB (default: the GPU here, else 8)."),
]
SpacingOption = Annotated[
    str | None,
    typer.Option(
        "--spacing", metavar="Z,Y,X", help="Target spacing in mm, axes of the images (flat: Y,X); auto: planned."
    ),
]
PatchOption = Annotated[
    str | None,
    typer.Option(
        "--patch", metavar="Z,Y,X", help="Patch in voxels of 3d_fullres (2d: Y,X), axes of the images; auto: planned."
    ),
]
PretrainedOption = Annotated[
    Path | None,
    typer.Option(
        "--pretrained",
        help="Plan for a training from these weights: their scale and normalisation.",
        rich_help_panel=_WEIGHTS,
    ),
]
SidecarOption = Annotated[
    Path | None,
    typer.Option(
        "--sidecar", help="What was stored beside the weights (default: the file there).", rich_help_panel=_WEIGHTS
    ),
]
PretrainedGeometryOption = Annotated[
    bool,
    typer.Option(
        "--pretrained-geometry",
        help="Take spacing, patch and strides of the pre-training too.",
        rich_help_panel=_WEIGHTS,
    ),
]
AnyNormalisationOption = Annotated[
    bool,
    typer.Option(
        "--any-normalisation",
        help="Keep the dataset's own normalisation, whatever the weights saw.",
        rich_help_panel=_WEIGHTS,
    ),
]
PlanNameOption = Annotated[
    str | None,
    typer.Option("--plan", help="Name of the plan (default: stu<scale>Plans, stu<scale>PretrainedPlans for weights)."),
]
ConfigurationsOption = Annotated[
    list[str] | None,
    typer.Option("--configuration", help="What to preprocess, repeatable (default: 3d_fullres, or 2d for flat data)."),
]
ImagesOption = Annotated[Path | None, typer.Option("--images", help="Folder of images.", rich_help_panel=_IMPORT)]
LabelsOption = Annotated[
    Path | None, typer.Option("--labels", help="Folder of their label maps.", rich_help_panel=_IMPORT)
]
DatasetNameOption = Annotated[
    str | None,
    typer.Option("--dataset-name", help="What to call an imported dataset or a union.", rich_help_panel=_IMPORT),
]
ChannelsOption = Annotated[
    str, typer.Option("--channels", help="Names of the channels: CT, or T1,T2.", rich_help_panel=_IMPORT)
]
FoldsOption = Annotated[
    int | None, typer.Option("--folds", help="Number of folds (default: five).", rich_help_panel=_FOLDS)
]
GroupByOption = Annotated[
    str | None,
    typer.Option(
        "--group-by",
        help="Keep patients together: a pattern for the patient in a case id, or a CSV with case,group.",
        rich_help_panel=_FOLDS,
    ),
]
StratifyOption = Annotated[
    bool, typer.Option("--stratify", help="Spread rare labels over the folds.", rich_help_panel=_FOLDS)
]
ProbeOption = Annotated[bool, typer.Option("--probe", help="Measure a few training steps on this machine.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan, write nothing.")]
PreprocessOption = Annotated[
    bool, typer.Option("--preprocess/--no-preprocess", help="Preprocess the cases once the plan is written.")
]
ForceOption = Annotated[
    bool,
    typer.Option("--force", help="Replace a plan that trainings used, and folds that nobody trained."),
]


def parse_axes(text: str | None, flag: str) -> tuple[float, ...] | None:
    """Read numbers for axes from '1.5,1.5,1.5'; 'auto' is empty, nothing is None.

    Raises:
        UsageError: it is something else.
    """
    if text is None:
        return None
    if text.strip().lower() == "auto":
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{flag} must be numbers with commas between them, got '{text}'", hint=f"{flag} auto"
        ) from error


def parse_patch(text: str | None) -> tuple[int, ...] | None:
    """Read a patch from '128,128,128'; 'auto' is empty, nothing is None.

    Raises:
        UsageError: it is something else.
    """
    numbers = parse_axes(text, "--patch")
    if numbers is not None and any(number != int(number) for number in numbers if math.isfinite(number)):
        raise UsageError(f"--patch must be whole voxels, got '{text}'", hint="--patch 128,128,128")
    return None if numbers is None else tuple(int(number) if math.isfinite(number) else 0 for number in numbers)
