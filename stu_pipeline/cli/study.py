"""`stu study`: flags, the study, how its cells stand and what it came to."""

from __future__ import annotations

import shlex
from pathlib import Path

import typer

from stu_pipeline.cli import study_options as flags
from stu_pipeline.cli.console import Console, format_seconds
from stu_pipeline.cli.options import (
    DebugOption,
    JsonOption,
    QuietOption,
    VerboseOption,
    WorkersOption,
    open_console,
)
from stu_pipeline.errors import PartialError
from stu_pipeline.study.config import STATES, CellStatus, StudyConfig, StudyResult

_DEFAULTS = StudyConfig(manifest=Path())
_MAX_COMMANDS = 3
_MAX_NOTE = 90


def study_command(
    manifest: flags.ManifestArgument,
    jobs: flags.JobsOption = _DEFAULTS.jobs,
    only: flags.OnlyOption = None,
    cell: flags.CellOption = _DEFAULTS.cell,
    dry_run: flags.DryRunOption = _DEFAULTS.dry_run,
    export_jobs: flags.ExportJobsOption = _DEFAULTS.export_jobs,
    force: flags.ForceOption = _DEFAULTS.force,
    workers: WorkersOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Run a matrix of datasets, scales and starts, and compare them; run it again and it continues.

    For example:

    stu study hippocampus.toml --dry-run

    stu study hippocampus.toml --jobs 4

    stu study hippocampus.toml --export-jobs jobs
    """
    console = open_console(json=json, verbose=verbose, quiet=quiet)
    config = StudyConfig(
        manifest=manifest,
        jobs=jobs,
        cells=tuple(only or ()),
        cell=cell,
        dry_run=dry_run,
        export_jobs=export_jobs,
        force=force,
        num_workers=workers,
    )
    from stu_pipeline import run_study

    result = run_study(config, listen=console.listen)
    _show_cells(console, result)
    _show_forecasts(console, result)
    for line in (*result.missing, *result.summaries):
        console.show(line)
    for command in result.compare_commands[:_MAX_COMMANDS]:
        console.show(f"one pair: {command}")
    if len(result.compare_commands) > _MAX_COMMANDS:
        console.show(f"and {len(result.compare_commands) - _MAX_COMMANDS} more pairs, on the page")
    if result.files:
        console.show(f"{'scripts' if export_jobs else 'page'}: {result.files[-1]}")
    console.finish(result, next_command=_choose_next(config, result))
    _tell_failures(console, config, result)


def _show_cells(console: Console, result: StudyResult) -> None:
    rows = [
        [
            cell.name,
            cell.state,
            "-" if cell.mean_dice is None else f"{cell.mean_dice:.4f}",
            "-" if cell.elapsed_s is None else format_seconds(cell.elapsed_s),
            _shorten(cell.error or "; ".join(cell.flags)),
        ]
        for cell in result.cells
    ]
    counts = ", ".join(f"{result.count(state)} {state}" for state in STATES if result.count(state))
    console.show_table(f"{len(rows)} cells: {counts}", ["cell", "state", "Dice", "time", "note"], rows)


def _show_forecasts(console: Console, result: StudyResult) -> None:
    if not result.forecasts:
        return
    rows = [
        [
            item.dataset,
            " ".join(part for part in (item.arm, item.scale) if part),
            str(item.num_cells),
            "-" if item.disk_gib is None else f"{item.disk_gib:.2f} GiB",
            "-" if item.checkpoint_gib is None else f"{item.checkpoint_gib:.2f} GiB",
            "-" if item.hours is None else format_seconds(item.hours * 3600),
            item.basis,
        ]
        for item in result.forecasts
    ]
    columns = ["dataset", "arm", "cells", "data", "checkpoints", "time", "on"]
    console.show_table("Forecast of what is left", columns, rows)


def _choose_next(config: StudyConfig, result: StudyResult) -> str:
    manifest = shlex.quote(str(config.manifest))
    if config.export_jobs is not None:
        return f"sbatch {shlex.quote(str(result.files[-1]))}"
    if config.dry_run or any(cell.state != "done" for cell in result.cells) or config.cell is not None:
        return f"stu study {manifest}"
    return result.compare_commands[0] if result.compare_commands else ""


def _tell_failures(console: Console, config: StudyConfig, result: StudyResult) -> None:
    """Say what failed and leave with the exit code for it; nothing when all went well."""
    if not result.failed or config.dry_run or config.export_jobs is not None:
        return
    error = PartialError(f"{len(result.failed)} of {len(result.cells)} cells failed: {_name(result.failed)}")
    console.say(f"error: {error}\n   in: {result.folder}\n hint: the same command tries them again")
    raise typer.Exit(error.exit_code)


def _name(cells: tuple[CellStatus, ...]) -> str:
    return ", ".join(cell.name for cell in cells[:5]) + (", ..." if len(cells) > 5 else "")


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_NOTE else f"{text[: _MAX_NOTE - 3]}..."
