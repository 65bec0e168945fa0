"""Run a study: every cell of its matrix that is not finished, and the tables over what is.

Reads: the manifest, the datasets. Writes: the study's folder (docs/reference/study-manifest.md), nothing elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stu_pipeline.errors import StuError, UsageError
from stu_pipeline.log import Listener, ignore_events
from stu_pipeline.storage import hold_lock
from stu_pipeline.study.asking import describe_asked
from stu_pipeline.study.cell_record import (
    CellRecord,
    describe_cell,
    find_cell_record,
    make_digest,
    write_cell_record,
)
from stu_pipeline.study.cell_run import CellJob, run_cell
from stu_pipeline.study.cells import Cell, choose_cells, list_cells
from stu_pipeline.study.config import CellStatus, StudyConfig, StudyResult
from stu_pipeline.study.folders import StudyFolder
from stu_pipeline.study.manifest import Manifest, read_manifest


def run_study(config: StudyConfig, *, listen: Listener = ignore_events) -> StudyResult:
    """Run what is not finished and sum up what is; run it again and it continues.

    A cell that fails does not keep the others from being run: it is in `failed` of the result, with its error, and the
    next pass tries it again.

    Args:
        config: which study, and which of its cells.
        listen: receives `Notice` and `Progress` events of cells.

    Raises:
        UsageError: the manifest makes no sense; all its problems are listed.
        DataError: a dataset cannot be found.
        LockedError: another process runs the study.
        StoppedError: a signal stopped it; the same command continues.
        StuError: with `cell`, whatever made it fail.
    """
    manifest = read_manifest(config.manifest)
    cells = list_cells(manifest)
    if config.cell is not None:
        return _run_one(manifest, cells, config, listen)
    chosen = choose_cells(cells, config.cells)
    if config.dry_run:
        return _show(manifest, cells, chosen, listen)
    if config.export_jobs is not None:
        from stu_pipeline.study.jobs import export_jobs

        files = export_jobs(config.export_jobs, manifest, chosen, num_at_once=config.jobs)
        return replace(_describe(manifest, cells), files=files)
    with hold_lock(StudyFolder(manifest.folder).lock, what=f"study '{manifest.name}'"):
        _run_all(manifest, chosen, config, listen)
        return _sum_up(manifest, cells)


def describe_cells(manifest: Manifest, cells: Sequence[Cell]) -> tuple[CellStatus, ...]:
    """Say how every cell stands."""
    folder = StudyFolder(manifest.folder)
    return tuple(
        describe_cell(
            cell,
            find_cell_record(folder.cell_record(cell.name)),
            digest=make_digest(describe_asked(manifest, cell)),
            summary=folder.cell_summary(cell.name),
        )
        for cell in cells
    )


def _run_one(manifest: Manifest, cells: Sequence[Cell], config: StudyConfig, listen: Listener) -> StudyResult:
    found = [cell for cell in cells if cell.name == config.cell]
    if not found:
        raise UsageError(
            f"no cell is named '{config.cell}', the first of {len(cells)} is '{cells[0].name}'",
            hint=f"stu study {config.manifest} --dry-run",
        )
    run_cell(
        CellJob(manifest=manifest.path, cell=found[0], force=config.force, num_workers=config.num_workers),
        listen=listen,
    )
    return _describe(manifest, found)


def _run_all(manifest: Manifest, chosen: Sequence[Cell], config: StudyConfig, listen: Listener) -> None:
    from stu_pipeline.study.run_cells import CellFailure, run_cells

    states = {status.name: status.state for status in describe_cells(manifest, chosen)}
    _require_unchanged(manifest, [name for name, state in states.items() if state == "changed"], config)
    by_name = {cell.name: cell for cell in chosen}

    def note(failure: CellFailure) -> None:
        _note_failure(manifest, by_name[failure.cell], failure.error)

    jobs = [
        CellJob(manifest=manifest.path, cell=cell, force=config.force, num_workers=config.num_workers)
        for cell in chosen
        if states[cell.name] != "done"
    ]
    run_cells(jobs, num_at_once=config.jobs, device=manifest.budget.device, listen=listen, note=note)


def _require_unchanged(manifest: Manifest, changed: Sequence[str], config: StudyConfig) -> None:
    if changed and not config.force:
        raise UsageError(
            f"{len(changed)} cells were made with other settings than the manifest's now: {changed[0]}",
            where=StudyFolder(manifest.folder).root,
            hint="undo the change, give the study another 'folder', or run them again from their beginning: --force",
            details=tuple(changed[1:10]),
        )


def _note_failure(manifest: Manifest, cell: Cell, error: StuError) -> None:
    """Write a failure down where the cell itself could not: it was killed, or never got that far."""
    path = StudyFolder(manifest.folder).cell_record(cell.name)
    asked = describe_asked(manifest, cell)
    known = find_cell_record(path)
    if known is not None and known.state == "failed":
        return
    base = known or CellRecord(state="failed", digest=make_digest(asked), asked=asked)
    write_cell_record(path, replace(base, state="failed", error=str(error), exit_code=error.exit_code))


def _describe(manifest: Manifest, cells: Sequence[Cell]) -> StudyResult:
    return StudyResult(name=manifest.name, folder=manifest.folder, cells=describe_cells(manifest, cells))


def _show(manifest: Manifest, cells: Sequence[Cell], chosen: Sequence[Cell], listen: Listener) -> StudyResult:
    from stu_pipeline.study.forecast import forecast_study

    result = _describe(manifest, chosen or cells)
    return replace(result, forecasts=forecast_study(manifest, result.cells, listen=listen))


def _sum_up(manifest: Manifest, cells: Sequence[Cell]) -> StudyResult:
    from stu_pipeline.study.summing import sum_up

    return sum_up(manifest, _describe(manifest, cells))
