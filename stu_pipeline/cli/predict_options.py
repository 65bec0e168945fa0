"""The flags of `stu predict`, each with its help, and what becomes of their text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stu_pipeline.errors import UsageError

if TYPE_CHECKING:
    from stu_pipeline.prediction.config import Folds

_ENSEMBLE = "Ensemble"
_MACHINE = "Machine"
_OUTPUTS = "Further outputs"
_SAFETY = "Continuing and safety"

InputOption = Annotated[
    Path,
    typer.Option("-i", "--input", help="A volume, a folder of volumes, or DICOM series.", show_default=False),
]
OutputOption = Annotated[
    Path, typer.Option("-o", "--output", help="Where the masks go: a folder, or a file name.", show_default=False)
]
ModelOption = Annotated[
    list[Path] | None,
    typer.Option("-m", "--model", help="A model folder; repeat it for an ensemble.", show_default=False),
]
DatasetOption = Annotated[
    str | None, typer.Option("-d", "--dataset", help="Find the model of this dataset instead of -m.")
]
ScaleOption = Annotated[str | None, typer.Option("--scale", help="With -d: S, B, L or H.")]
PlanOption = Annotated[str | None, typer.Option("--plan", help="With -d: a plan name instead of the scale.")]
ConfigurationOption = Annotated[
    str | None,
    typer.Option("--configuration", help="2d, 3d_fullres, ... (default: 3d_fullres, or what the model is)."),
]

FoldsOption = Annotated[
    str, typer.Option("--folds", help="Which folds: auto, or for example 0,1,2 or all.", rich_help_panel=_ENSEMBLE)
]
CheckpointOption = Annotated[
    Literal["final", "best", "latest", "ema"],
    typer.Option(
        "--checkpoint",
        help="best and latest also take unfinished folds; ema takes averaged weights.",
        rich_help_panel=_ENSEMBLE,
    ),
]
TtaOption = Annotated[
    Literal["full", "auto", "none"],
    typer.Option(
        "--tta",
        help="Average mirrored copies: of every tile (8 times the work in 3D), of unsure ones, or never.",
        rich_help_panel=_ENSEMBLE,
    ),
]
EffortOption = Annotated[
    Literal["full", "elastic"],
    typer.Option(
        "--effort",
        help="elastic: the smallest model everywhere, larger ones only on tiles where it is unsure.",
        rich_help_panel=_ENSEMBLE,
    ),
]
ModelWeightsOption = Annotated[
    str | None,
    typer.Option("--model-weights", help="One weight per model folder, for example 1,2.", rich_help_panel=_ENSEMBLE),
]
StepOption = Annotated[
    float,
    typer.Option("--step", help="Distance of two tiles as a share of the patch.", rich_help_panel=_ENSEMBLE),
]
PostprocessingOption = Annotated[
    Literal["auto", "none"],
    typer.Option(
        "--postprocessing",
        help="auto applies what stu calibrate found to help; none leaves the masks as the networks made them.",
        rich_help_panel=_ENSEMBLE,
    ),
]

DeviceOption = Annotated[
    str, typer.Option("--device", help="auto, cuda, cuda:1, cpu or mps.", rich_help_panel=_MACHINE)
]
PrecisionOption = Annotated[
    Literal["auto", "bf16", "fp16", "fp32"],
    typer.Option(
        "--precision",
        help="auto: fp16 on a GPU, bf16 on a CPU that computes in it, else fp32.",
        rich_help_panel=_MACHINE,
    ),
]
GpusOption = Annotated[
    int | None,
    typer.Option("--gpus", help="GPUs that share the cases, one process each. [1]", rich_help_panel=_MACHINE),
]
MaxRamOption = Annotated[
    float | None,
    typer.Option(
        "--max-ram",
        help="GiB of RAM that may be used; a case that cannot keep to it is refused beforehand.",
        rich_help_panel=_MACHINE,
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Only say what would be done, and what memory and disk it takes.", rich_help_panel=_MACHINE
    ),
]

ProbabilitiesOption = Annotated[
    Literal["none", "npz", "zarr"],
    typer.Option(
        "--probabilities",
        help="Also write probabilities: as nnUNetv2_ensemble reads them, or in small chunks.",
        rich_help_panel=_OUTPUTS,
    ),
]
ProbabilityBitsOption = Annotated[
    int, typer.Option("--probability-bits", help="Of a probability in a zarr: 8 or 16.", rich_help_panel=_OUTPUTS)
]
PerLabelOption = Annotated[
    bool,
    typer.Option("--per-label-files", help="Also one binary mask per label.", rich_help_panel=_OUTPUTS),
]
DicomSegOption = Annotated[
    bool,
    typer.Option("--dicom-seg", help="Also a DICOM SEG per case; needs DICOM input.", rich_help_panel=_OUTPUTS),
]
ReportOption = Annotated[
    Path | None, typer.Option("--report", help="A further place for the report (JSON).", rich_help_panel=_OUTPUTS)
]

OverwriteOption = Annotated[
    bool,
    typer.Option("--overwrite", help="Predict again what is there already.", rich_help_panel=_SAFETY),
]
VerifyOption = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Hash the inputs of finished cases again, even where size and times are unchanged.",
        rich_help_panel=_SAFETY,
    ),
]


WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        help="0 prepares cases in turn with their prediction; else the next case is prepared meanwhile.",
        rich_help_panel=_MACHINE,
    ),
]


def choose_models(
    models: list[Path] | None, dataset: str | None, *, scale: str | None, plan: str | None, configuration: str | None
) -> tuple[Path, ...]:
    """Return the model folders that -m names or -d finds.

    Raises:
        UsageError: neither or both are given.
        ModelError: there is no such model.
    """
    if models and dataset is None:
        if scale or plan:
            raise UsageError("--scale and --plan belong to -d, not to -m")
        return tuple(path.absolute() for path in models)
    if dataset is None or models:
        raise UsageError("give a model: either -m MODEL_FOLDER or -d DATASET, not both")
    from stu_pipeline.prediction.find_model import find_model

    return (find_model(dataset, scale=scale, plan=plan, configuration=configuration),)


def parse_folds(text: str) -> Folds:
    """Turn `auto`, `all` or `0,1,2` into what a config takes.

    Raises:
        UsageError: it is something else.
    """
    if text == "auto":
        return "auto"
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part == "all" or part.isdecimal() for part in parts):
        raise UsageError(f"folds are 'auto', 'all' or numbers, got '{text}'", hint="--folds 0,1,2")
    return tuple("all" if part == "all" else int(part) for part in parts)


def parse_weights(text: str | None) -> tuple[float, ...] | None:
    """Turn `1,2` into numbers.

    Raises:
        UsageError: it is something else.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"model weights are numbers, got '{text}'", hint="--model-weights 1,2") from error
