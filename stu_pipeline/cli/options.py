"""Options that every command shares."""

from __future__ import annotations

from typing import Annotated

import typer

from stu_pipeline.cli.console import Console

_PANEL = "Output"

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.", rich_help_panel=_PANEL)]
VerboseOption = Annotated[
    int, typer.Option("-v", "--verbose", count=True, help="Show the log; twice for all of it.", rich_help_panel=_PANEL)
]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Show errors only.", rich_help_panel=_PANEL)]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of a user error.", rich_help_panel=_PANEL)
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=0, help="Worker processes (default: what the cores allow).")
]
OneProcessOption = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Taken as by every command; this one works in one process."),
]
DatasetArgument = Annotated[str, typer.Argument(help="Id (4), name (Dataset004_Hippocampus) or path of the dataset.")]


def open_console(*, json: bool, verbose: int, quiet: bool) -> Console:
    """Make the console of one command from the shared flags."""
    return Console(as_json=json, verbosity=-1 if quiet else verbose)
