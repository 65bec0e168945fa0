"""The flags of `stu evaluate`, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_LABELS = "Labels"
_METRICS = "Metrics"

ReferenceOption = Annotated[
    Path, typer.Option("-r", "--reference", help="Reference label maps: a folder or one file.", show_default=False)
]
PredictionOption = Annotated[
    Path, typer.Option("-p", "--prediction", help="Predicted label maps: a folder or one file.", show_default=False)
]
OutputOption = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Where to write the scores (default: summary.json in the prediction folder)."),
]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", help="Folder for scores.csv, summary.md and report.html, a page with plots and pictures."),
]
ImagesOption = Annotated[
    Path | None, typer.Option("--images", help="Folder of the images, to show them behind the masks in the report.")
]
AllowMissingOption = Annotated[
    bool, typer.Option("--allow-missing", help="Score what is there when a reference has no prediction.")
]

LabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        help="The dataset.json that names the reference labels (default: looked for beside them).",
        rich_help_panel=_LABELS,
    ),
]
PredictionLabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--prediction-labels",
        help="The dataset.json that names the predicted labels (default: the one beside them, else the reference's).",
        rich_help_panel=_LABELS,
    ),
]
MappingOption = Annotated[
    Path | None,
    typer.Option(
        "--mapping",
        help="Which predicted labels are which reference labels (JSON), where their names do not say it.",
        rich_help_panel=_LABELS,
    ),
]

ToleranceOption = Annotated[
    float,
    typer.Option(
        "--tolerance", help="Distance in mm within which a surface counts as met (NSD).", rich_help_panel=_METRICS
    ),
]
SurfaceOption = Annotated[
    bool,
    typer.Option("--surface/--no-surface", help="Measure HD95, ASSD and NSD as well.", rich_help_panel=_METRICS),
]
LesionsOption = Annotated[
    bool,
    typer.Option(
        "--lesions", help="Count connected parts found, missed and invented as well.", rich_help_panel=_METRICS
    ),
]
LesionIouOption = Annotated[
    float,
    typer.Option(
        "--lesion-iou", help="IoU above which a lesion counts as found (0: a shared voxel).", rich_help_panel=_METRICS
    ),
]
LesionSizeOption = Annotated[
    float,
    typer.Option(
        "--lesion-size", help="Smallest lesion in mm3; smaller parts are not counted.", rich_help_panel=_METRICS
    ),
]
