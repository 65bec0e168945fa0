"""The flags of `stu calibrate`, each with its help, and which model they name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from stu_pipeline.errors import UsageError

ModelOption = Annotated[Path | None, typer.Option("-m", "--model", help="A model folder.", show_default=False)]
DatasetOption = Annotated[
    str | None,
    typer.Option("-d", "--dataset", help="The dataset it was trained on; without -m also finds the model."),
]
ScaleOption = Annotated[str | None, typer.Option("--scale", help="Without -m: S, B, L or H.")]
PlanOption = Annotated[str | None, typer.Option("--plan", help="Without -m: a plan name instead of the scale.")]
ConfigurationOption = Annotated[
    str | None,
    typer.Option("--configuration", help="Without -m: 2d, 3d_fullres, ... (default: 3d_fullres, or what there is)."),
]
TtaOption = Annotated[
    Literal["full", "auto", "none"],
    typer.Option("--tta", help="As predictions will be made: estimates are for that only."),
]
StepOption = Annotated[float, typer.Option("--step", help="Distance of two tiles as a share of the patch.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cuda, cuda:1, cpu or mps.")]
PrecisionOption = Annotated[
    Literal["auto", "bf16", "fp16", "fp32"],
    typer.Option("--precision", help="auto: fp16 on a GPU, bf16 on a CPU that computes in it, else fp32."),
]
ErrorRateOption = Annotated[
    float, typer.Option("--error-rate", help="Share of masks that may be worse than their bound.")
]
AcceptDiceOption = Annotated[
    float | None,
    typer.Option(
        "--accept-dice",
        help="What every label of an accepted mask must reach (default: 0.1 below its usual Dice).",
    ),
]
QualityOption = Annotated[bool, typer.Option("--quality/--no-quality", help="Learn what Dice to expect of a mask.")]
PostprocessingOption = Annotated[
    bool, typer.Option("--postprocessing/--no-postprocessing", help="Learn how to clean up masks.")
]
ReadersOption = Annotated[
    int, typer.Option("--workers", min=0, help="Processes that read masks; 0: only the main one.")
]


def choose_model(
    model: Path | None, dataset: str | None, *, scale: str | None, plan: str | None, configuration: str | None
) -> Path:
    """Return the model folder that -m names or -d finds.

    Raises:
        UsageError: both or none are given.
        ModelError: there is no such model.
    """
    if model is not None:
        if scale or plan or configuration:
            raise UsageError("--scale, --plan and --configuration find a model, so they do not go with -m")
        return model.absolute()
    if dataset is None:
        raise UsageError("give a model: either -m MODEL_FOLDER or -d DATASET")
    from stu_pipeline.prediction.find_model import find_model

    return find_model(dataset, scale=scale, plan=plan, configuration=configuration)
