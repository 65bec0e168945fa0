"""What the cells that are left will take: disk and time as planning forecasts them."""

from __future__ import annotations

from collections.abc import Sequence

from stu_pipeline.log import Listener, Progress, ignore_events
from stu_pipeline.planning.config import PlanResult
from stu_pipeline.study.cells import Cell, list_cells
from stu_pipeline.study.config import CellStatus, StudyForecast
from stu_pipeline.study.manifest import Manifest
from stu_pipeline.study.prepare import find_plan_arm, make_plan_config
from stu_pipeline.training.config import DEFAULT_NUM_ITERATIONS


def forecast_study(manifest: Manifest, cells: Sequence[CellStatus], *, listen: Listener) -> tuple[StudyForecast, ...]:
    """Forecast every arm on every dataset without writing anything.

    Where cells of an arm are done, the others take as long as they did; else planning's forecast stands, which stock
    networks do not have.

    Args:
        manifest: of the study.
        cells: which to forecast; those that are done take nothing more.
        listen: receives a `Progress` per plan.

    Raises:
        DataError: a dataset has problems.
        MemoryLimitError: a scale does not fit the GPU memory.
    """
    states = {status.name: status.state for status in cells}
    left: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in list_cells(manifest):
        if states.get(cell.name, "done") != "done":
            left.setdefault((cell.dataset, cell.arm, cell.scale or ""), []).append(cell)
    known: dict[tuple[str, str, str], PlanResult] = {}
    forecasts = []
    for number, ((dataset, arm, scale), own) in enumerate(left.items(), start=1):
        key = (dataset, find_plan_arm(manifest, arm).name, scale)
        if scale and key not in known:
            known[key] = _plan(manifest, own[0])
        forecasts.append(_forecast(manifest, known.get(key), own, _find_measured_s(cells, own[0])))
        listen(Progress(step="forecast", done=number, total=len(left), item=f"{dataset} {arm} {scale}"))
    return tuple(forecasts)


def _find_measured_s(cells: Sequence[CellStatus], cell: Cell) -> float | None:
    """Return the mean time of the cells of the same dataset, arm and scale that are done."""
    own = [
        status.elapsed_s
        for status in cells
        if (status.dataset, status.arm, status.scale) == (cell.dataset, cell.arm, cell.scale)
        and status.state == "done"
        and status.elapsed_s is not None
    ]
    return sum(own) / len(own) if own else None


def _plan(manifest: Manifest, cell: Cell) -> PlanResult:
    from stu_pipeline import plan
    from stu_pipeline.workspace import use_workspace

    with use_workspace(manifest.folder):
        return plan(make_plan_config(manifest, cell, dry_run=True), listen=ignore_events)


def _forecast(
    manifest: Manifest, planned: PlanResult | None, cells: Sequence[Cell], measured_s: float | None
) -> StudyForecast:
    disk_gib = checkpoint_gib = None
    hours, basis = None, "no forecast"
    if planned is not None:
        name = manifest.configuration or planned.default_configuration
        forecast = next(item for item in planned.configurations if item.name == name)
        disk_gib, checkpoint_gib = forecast.disk_gib, forecast.checkpoint_gib * len(cells)
        # Planning forecasts an epoch of nnU-Net's length.
        epoch_s = forecast.seconds_per_epoch * manifest.budget.num_iterations / DEFAULT_NUM_ITERATIONS
        hours, basis = epoch_s * manifest.budget.num_epochs * len(cells) / 3600, forecast.device
    if measured_s is not None:
        hours, basis = measured_s * len(cells) / 3600, "as its finished cells took"
    return StudyForecast(
        dataset=cells[0].dataset,
        arm=cells[0].arm,
        scale=cells[0].scale,
        num_cells=len(cells),
        disk_gib=disk_gib,
        checkpoint_gib=checkpoint_gib,
        hours=hours,
        basis=basis,
    )
