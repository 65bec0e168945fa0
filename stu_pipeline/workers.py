"""Run one function over many cases in worker processes, and know which case a dead worker had.

Workers get one case at a time over a pipe of their own, so a killed worker costs one case and is named at
once. How a worker lives and dies is in `worker_process.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Generic, TypeVar

from stu_pipeline.errors import StuError
from stu_pipeline.worker_process import BEAT_S, Answer, Patience, WorkerProcess, call

Item = TypeVar("Item")
Result = TypeVar("Result")
STALL_S = 45.0
"""How long a worker may be silent and idle before it counts as stopped."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: `error` is None exactly when `result` holds what the function returned."""

    index: int
    item: Item
    result: Result | None = None
    error: StuError | None = None


def run_in_workers(
    function: Callable[[Item], Result] | Sequence[Callable[[Item], Result]],
    items: Sequence[Item],
    *,
    num_workers: int | None = None,
    name_of: Callable[[Item], str] = str,
    stall_s: float = STALL_S,
) -> Generator[Outcome[Item, Result]]:
    """Yield one outcome per item, in the order they finish.

    Args:
        function: importable (a module-level function); its module should not import torch unless it must. Several
            are one per worker, for example with a device of its own.
        items: arguments, one per call; they and the results must pickle.
        num_workers: processes; 0 runs everything in this process, in order. None: one per function.
        name_of: how messages call an item.
        stall_s: after how many seconds a silent, idle worker is ended.

    A `StuError` raised by the function, and a worker that is killed or stopped, become the `error` of that
    item; the others go on. Anything else is a bug of ours: its traceback goes to stderr and `RuntimeError` is raised
    here. Leaving the loop early ends the workers.
    """
    functions = [function] * (num_workers or 0) if callable(function) else list(function)
    if callable(function) and (num_workers == 0 or not items):
        yield from _run_here(function, items)
        return
    crew: dict[WorkerProcess, Callable[[Item], Result]] = {}
    waiting = list(range(len(items) - 1, -1, -1))
    busy: dict[WorkerProcess, int] = {}

    def employ(worker: WorkerProcess) -> None:
        busy[worker] = waiting.pop()
        worker.give(items[busy[worker]])

    try:
        for own in functions[: len(items)]:
            crew[WorkerProcess(own)] = own
        for worker in crew:
            employ(worker)
        while busy:
            for worker, answer in _wait_for_answers(list(busy), Patience(silent_s=stall_s)):
                index = busy.pop(worker)
                yield _make_outcome(worker, answer, index, items[index], name_of)
                if waiting:
                    if not worker.is_alive:
                        own = crew[worker]
                        worker = WorkerProcess(own)  # noqa: PLW2901
                        crew[worker] = own
                    employ(worker)
    finally:
        for worker in crew:
            worker.stop()


def _run_here(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Outcome[Item, Result]]:
    for index, item in enumerate(items):
        result, error = call(function, item)
        yield Outcome(index, item, result=result, error=error)


def _wait_for_answers(workers: list[WorkerProcess], patience: Patience) -> list[tuple[WorkerProcess, Answer]]:
    """Wait a little for what busy workers have to say."""
    start = time.monotonic()
    ready = wait([worker.connection for worker in workers], timeout=BEAT_S)
    # No more than one beat counts: if we were stopped ourselves, the workers are not to blame.
    waited_s = min(time.monotonic() - start, BEAT_S)
    pairs = [(w, w.take() if w.connection in ready else w.check(waited_s, patience)) for w in workers]
    return [(worker, answer) for worker, answer in pairs if answer is not None]


def _make_outcome(
    worker: WorkerProcess, answer: Answer, index: int, item: Any, name_of: Callable[[Any], str]
) -> Outcome[Any, Any]:
    if not answer.fate:
        return Outcome(index, item, result=answer.result, error=answer.error)
    return Outcome(index, item, error=worker.explain(answer, name_of(item)))
