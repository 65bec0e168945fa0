"""The flags of `stu plan`, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_IMPORT = "Two folders instead of a dataset"
_FOLDS = "Folds"

DatasetOrNothing = Annotated[
    str,
    typer.Argument(help="Id (4), name (Dataset004_Hippocampus) or path: nnU-Net v2, Decathlon or nnU-Net v1."),
]
ScaleOption = Annotated[str, typer.Option("--scale", help="auto, S, B, L or H.")]
GpuMemoryOption = Annotated[
    float | None,
    typer.Option("--gpu-memory", help="GPU memory to plan for in GiB (default: the GPU here, else 8)."),
]
PretrainedOption = Annotated[
    Path | None, typer.Option("--pretrained", help="Weights the training will start from; decides the auto scale.")
]
PlanNameOption = Annotated[str | None, typer.Option("--plan", help="Name of the plan (default: stu<scale>Plans).")]
ConfigurationsOption = Annotated[
    list[str] | None,
    typer.Option("--configuration", help="What to preprocess, repeatable (default: 3d_fullres, or 2d for flat data)."),
]
ImagesOption = Annotated[Path | None, typer.Option("--images", help="Folder of images.", rich_help_panel=_IMPORT)]
LabelsOption = Annotated[
    Path | None, typer.Option("--labels", help="Folder of their label maps.", rich_help_panel=_IMPORT)
]
DatasetNameOption = Annotated[
    str | None, typer.Option("--dataset-name", help="What to call an imported dataset.", rich_help_panel=_IMPORT)
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
