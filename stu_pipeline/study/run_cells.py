"""Run the cells of a study, each in a process of its own: what kills one costs one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stu_pipeline.errors import LockedError, StoppedError, StuError
from stu_pipeline.log import Listener, Notice, Progress
from stu_pipeline.study.cell_record import CellRecord
from stu_pipeline.study.cell_run import CellJob, run_cell
from stu_pipeline.training.parallel.crew import Child, Crew, open_crew
from stu_pipeline.training.parallel.folds import list_seats
from stu_pipeline.training.parallel.launch import (
    choose_device_type,
    choose_threads,
    explain,
    list_process_variables,
    require_gpus,
    require_no_ranks,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFailure:
    """A cell that did not come to its end, and why."""

    cell: str
    error: StuError


def run_cells(
    jobs: Sequence[CellJob], *, num_at_once: int, device: str, listen: Listener, note: Callable[[CellFailure], None]
) -> list[CellFailure]:
    """Run cells, several at a time; one that fails does not keep the others from being run.

    A signal is passed on to the cells at work, which save; none is begun after it.

    Args:
        jobs: the cells, in the order they are begun.
        num_at_once: processes at a time; on CUDA each has a GPU of its own.
        device: `auto`, `cuda`, `cpu` or `mps`.
        listen: receives a `Progress` per cell, and a `Notice` for the beginning, the end and warnings of each.
        note: called for each failure as soon as it is known; a cell that was killed cannot write it down itself.

    Raises:
        UsageError: there are fewer GPUs, or this is a process of torchrun.
        StoppedError: a signal stopped the study.
    """
    if not jobs:
        return []
    device_type = choose_device_type(device)
    num_at_once = min(num_at_once, len(jobs))
    require_gpus(num_at_once, device_type)
    require_no_ranks()
    threads = choose_threads(num_at_once)
    seats = [{**threads, **seat} for seat in list_seats(num_at_once, device_type)]
    with open_crew() as crew:
        failures = _Shift(crew, jobs, seats, listen, note).work()
        if crew.stop_signal is not None:
            raise StoppedError(
                f"stopped by signal {int(crew.stop_signal)}, the cells at work have saved their state",
                signal_number=int(crew.stop_signal),
                hint="run the same command to continue",
            )
    return failures


class _Shift:
    """The cells of one pass: which are at work, on which seat, and which are over."""

    def __init__(
        self,
        crew: Crew,
        jobs: Sequence[CellJob],
        seats: list[dict[str, str]],
        listen: Listener,
        note: Callable[[CellFailure], None],
    ) -> None:
        self._crew = crew
        self._waiting = list(jobs)
        self._num_cells = len(jobs)
        self._seats = seats
        self._listen = listen
        self._note = note
        self._at_work: dict[int, tuple[CellJob, Child]] = {}
        self._num_over = 0

    def work(self) -> list[CellFailure]:
        """Run all; after a signal only wait for those at work."""
        failures: list[CellFailure] = []
        while self._at_work or (self._waiting and self._crew.stop_signal is None):
            for seat in range(len(self._seats)):
                if seat not in self._at_work and self._waiting and self._crew.stop_signal is None:
                    self._begin(self._waiting.pop(0), seat)
            self._crew.pump()
            for seat, (job, child) in list(self._at_work.items()):
                if not child.is_alive:
                    del self._at_work[seat]
                    failure = self._end(job, child)
                    failures += [failure] if failure is not None else []
        return failures

    def _begin(self, job: CellJob, seat: int) -> None:
        name = job.cell.name
        self._listen(Notice(text=f"{name}: begins"))
        variables = list_process_variables(**self._seats[seat])

        def hear(event: object) -> None:
            if isinstance(event, Notice):
                self._listen(Notice(text=f"{name}: {event.text}", is_warning=event.is_warning))

        self._at_work[seat] = job, self._crew.add(Child(run_cell, job, variables=variables, listen=hear))

    def _end(self, job: CellJob, child: Child) -> CellFailure | None:
        child.hear()
        name = job.cell.name
        self._num_over += 1
        failure: CellFailure | None = None
        if child.has_failed and not (self._crew.stop_signal is not None and child.has_obeyed):
            error = _explain(child, name)
            if isinstance(error, LockedError):  # a job of a cluster runs it: that is no failure
                self._listen(Notice(text=f"{name}: left out: {error}", is_warning=True))
            else:
                failure = CellFailure(cell=name, error=error)
                self._note(failure)
                self._listen(Notice(text=f"{name}: failed: {error}", is_warning=True))
        elif child.outcome is not None and isinstance(child.outcome.result, CellRecord):
            record = child.outcome.result
            flags = f", looks failed: {'; '.join(record.flags)}" if record.flags else ""
            dice = "-" if record.mean_dice is None else f"{record.mean_dice:.4f}"
            self._listen(Notice(text=f"{name}: done, Dice {dice}, {record.elapsed_s:.0f} s{flags}",
                                is_warning=bool(flags)))  # fmt: skip
        self._listen(Progress(step="cells", done=self._num_over, total=self._num_cells, item=name))
        self._crew.release([child])
        return failure


def _explain(child: Child, name: str) -> StuError:
    """Turn any end of a cell's process into an error: a bug in one cell does not end the others."""
    try:
        return explain(child, f"cell '{name}'", where=None)
    except RuntimeError as error:
        lines = str(error).splitlines()
        problem = StuError(f"{lines[0]}: {lines[-1]}" if len(lines) > 1 else lines[0])
        problem.details = tuple(lines[1:])
        return problem
