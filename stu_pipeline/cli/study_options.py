"""The flags of `stu study`, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ManifestArgument = Annotated[
    Path, typer.Argument(help="TOML file that describes the study (docs/reference/study-manifest.md).")
]
JobsOption = Annotated[
    int, typer.Option("--jobs", min=1, help="Cells at the same time; on CUDA each has a GPU of its own.")
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option("--only", help="Run only cells whose names fit a pattern, repeatable: '*.scratch.*'."),
]
CellOption = Annotated[
    str | None,
    typer.Option("--cell", help="Run this one cell here and write no tables, as an exported job does."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show the matrix, what is done and what the rest will take; write nothing.")
]
ExportJobsOption = Annotated[
    Path | None,
    typer.Option("--export-jobs", help="Write a shell script per cell and a SLURM array into this folder; run none."),
]
ForceOption = Annotated[
    bool,
    typer.Option("--force", help="Begin failed, stopped and changed cells anew; finished ones stay."),
]
