"""Run one function over many cases in worker processes, and know which case a dead worker had.

Workers are spawned (no forked locks, no inherited GPU state) and get one case at a time over a pipe of
their own, so a killed worker costs one case and is named at once. A worker ends when its pipe closes,
so none outlives a parent that was killed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, TypeVar

from stu_pipeline.errors import DataError, MemoryLimitError, StuError

Item = TypeVar("Item")
Result = TypeVar("Result")
_JOIN_S = 5.0
_EXIT_BUG = 1  # what Python exits with after an uncaught exception
# One thread per worker: the processes are the parallelism. Read by numpy's and scipy's libraries at import.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: `error` is None exactly when `result` holds what the function returned."""

    index: int
    item: Item
    result: Result | None = None
    error: StuError | None = None


def run_in_workers(
    function: Callable[[Item], Result], items: Sequence[Item], *, num_workers: int, name_of: Callable[[Item], str] = str
) -> Iterator[Outcome[Item, Result]]:
    """Yield one outcome per item, in the order they finish.

    Args:
        function: importable (a module-level function); its module should not import torch.
        items: arguments, one per call; they and the results must pickle.
        num_workers: processes; 0 runs everything in this process, in order.
        name_of: how messages call an item.

    A `StuError` raised by the function, and a worker that is killed, become the `error` of that item; the
    others go on. Anything else is a bug of ours: its traceback goes to stderr and `RuntimeError` is raised
    here. Leaving the loop early ends the workers.
    """
    if num_workers == 0 or not items:
        yield from _run_here(function, items)
        return
    crew: list[_Worker] = []
    waiting = list(range(len(items) - 1, -1, -1))
    try:
        crew += [_Worker(function) for _ in range(min(num_workers, len(items)))]
        busy = {worker: worker.give(waiting.pop(), items) for worker in crew}
        while busy:
            ready = wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection in ready]:
                index = busy.pop(worker)
                outcome = worker.take(index, items[index], name_of)
                yield outcome
                if waiting:
                    if not worker.is_alive:
                        worker = _Worker(function)  # noqa: PLW2901
                        crew.append(worker)
                    busy[worker] = worker.give(waiting.pop(), items)
    finally:
        for worker in crew:
            worker.stop()


def _run_here(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Outcome[Item, Result]]:
    for index, item in enumerate(items):
        result, error = _call(function, item)
        yield Outcome(index, item, result=result, error=error)


def _call(function: Callable[[Item], Result], item: Item) -> tuple[Result | None, StuError | None]:
    try:
        return function(item), None
    except StuError as error:
        return None, error
    except MemoryError:
        return None, MemoryLimitError("not enough memory for this case", hint="use fewer workers, or free some memory")


class _Worker:
    """One process and our end of its pipe."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs, function), daemon=True)
        _start_single_threaded(self.process)
        theirs.close()
        self.is_alive = True

    def give(self, index: int, items: Sequence[Any]) -> int:
        with contextlib.suppress(BrokenPipeError):  # it died while idle; `take` says so
            self.connection.send(items[index])
        return index

    def take(self, index: int, item: Any, name_of: Callable[[Any], str]) -> Outcome[Any, Any]:
        try:
            result, error = self.connection.recv()
        except (EOFError, ConnectionResetError) as end:
            self.is_alive = False
            self.process.join(_JOIN_S)
            if self.process.exitcode == _EXIT_BUG:
                raise RuntimeError(f"a worker failed on '{name_of(item)}', its traceback is above") from end
            problem = f"the worker process for '{name_of(item)}' {_describe_exit(self.process.exitcode)}"
            hint = "out of memory is the usual reason: use fewer workers, or free some memory"
            kind = MemoryLimitError if self.process.exitcode == -signal.SIGKILL else DataError
            return Outcome(index, item, error=kind(problem, hint=hint))
        return Outcome(index, item, result=result, error=error)

    def stop(self) -> None:
        self.connection.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join(_JOIN_S)


def _start_single_threaded(process: SpawnProcess) -> None:
    previous = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        process.start()
    finally:
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """Answer items until the pipe closes."""
    # Ctrl-C and SIGTERM reach the whole group; the parent decides what happens to us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            item = connection.recv()
        except (EOFError, OSError):
            return
        answer = _call(function, item)
        with contextlib.suppress(BrokenPipeError):  # the parent is gone; the next recv ends us
            connection.send(answer)


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"ended with exit code {code}"
