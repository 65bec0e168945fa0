"""Run one function over many cases in worker processes, and know which case a dead worker had.

Workers are spawned (no forked locks, no inherited GPU state) and get one case at a time over a pipe of
their own, so a killed worker costs one case and is named at once. A worker that works says so every two
seconds; one that is silent and uses no processor is taken for stopped, named and ended. None outlives a
parent that was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from stu_pipeline.errors import DataError, MemoryLimitError, StuError

Item = TypeVar("Item")
Result = TypeVar("Result")
STALL_S = 45.0
"""How long a worker may be silent and idle before it counts as stopped."""
_BEAT_S = 2.0
_JOIN_S = 5.0
_EXIT_BUG = 1  # what Python exits with after an uncaught exception
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
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
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    num_workers: int,
    name_of: Callable[[Item], str] = str,
    stall_s: float = STALL_S,
) -> Generator[Outcome[Item, Result]]:
    """Yield one outcome per item, in the order they finish.

    Args:
        function: importable (a module-level function); its module should not import torch.
        items: arguments, one per call; they and the results must pickle.
        num_workers: processes; 0 runs everything in this process, in order.
        name_of: how messages call an item.
        stall_s: after how many seconds a silent, idle worker is ended.

    A `StuError` raised by the function, and a worker that is killed or stopped, become the `error` of that
    item; the others go on. Anything else is a bug of ours: its traceback goes to stderr and `RuntimeError` is raised
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
            for worker, answer in _wait_for_answers(list(busy), stall_s):
                index = busy.pop(worker)
                yield _make_outcome(worker, answer, index, items[index], name_of)
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


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came through a worker's pipe. `fate` says how it ended, when it did."""

    result: Any = None
    error: StuError | None = None
    fate: str = ""


class _Worker:
    """One process and our end of its pipe."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # The kernel's signal comes when the thread that started a process ends, so only the main thread may ask.
        is_main_thread = threading.current_thread() is threading.main_thread()
        self.process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, function, os.getpid(), is_main_thread), daemon=True
        )
        _start_single_threaded(self.process)
        theirs.close()
        self.is_alive = True
        self._silent_s = 0.0
        self._processor_s: float | None = None

    def give(self, index: int, items: Sequence[Any]) -> int:
        self._silent_s, self._processor_s = 0.0, None
        with contextlib.suppress(OSError):  # it died while idle; the answer will say so
            self.connection.send(items[index])
        return index

    def take(self) -> _Answer | None:
        """Read what is in the pipe; None for a sign of life."""
        self._silent_s, self._processor_s = 0.0, None
        try:
            message: _Answer | None = self.connection.recv()
        except (EOFError, OSError):
            return self._end("")
        return message

    def check(self, waited_s: float, stall_s: float) -> _Answer | None:
        """Note a time without a word; end the worker when it was silent and idle for too long."""
        self._silent_s += waited_s
        processor_s = _measure_processor_s(self.process.pid)
        if self._processor_s is None or processor_s != self._processor_s:
            # Work that holds Python's lock keeps a worker silent, but not idle.
            self._silent_s = waited_s if self._processor_s is not None else self._silent_s
            self._processor_s = processor_s
        if self._silent_s < stall_s:
            return None
        return self._end(f"did not respond for {self._silent_s:.0f} s and was ended")

    def stop(self) -> None:
        self.connection.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join(_JOIN_S)

    def _end(self, fate: str) -> _Answer:
        self.is_alive = False
        if fate:
            self.process.kill()
        self.process.join(_JOIN_S)
        return _Answer(fate=fate or _describe_exit(self.process.exitcode))


def _wait_for_answers(workers: list[_Worker], stall_s: float) -> list[tuple[_Worker, _Answer]]:
    """Wait a little for what busy workers have to say."""
    start = time.monotonic()
    ready = wait([worker.connection for worker in workers], timeout=_BEAT_S)
    # No more than one beat counts: if we were stopped ourselves, the workers are not to blame.
    waited_s = min(time.monotonic() - start, _BEAT_S)
    pairs = [(w, w.take() if w.connection in ready else w.check(waited_s, stall_s)) for w in workers]
    return [(worker, answer) for worker, answer in pairs if answer is not None]


def _make_outcome(
    worker: _Worker, answer: _Answer, index: int, item: Any, name_of: Callable[[Any], str]
) -> Outcome[Any, Any]:
    if not answer.fate:
        return Outcome(index, item, result=answer.result, error=answer.error)
    code = worker.process.exitcode
    if code == _EXIT_BUG:
        raise RuntimeError(f"a worker failed on '{name_of(item)}', its traceback is above")
    problem = f"the worker process for '{name_of(item)}' {answer.fate}"
    if answer.fate == _describe_exit(-signal.SIGKILL):
        hint = "out of memory is the usual reason: use fewer workers, or free some memory"
        return Outcome(index, item, error=MemoryLimitError(problem, hint=hint))
    return Outcome(index, item, error=DataError(problem, hint="run the same command again, with fewer workers"))


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


def _serve(connection: Connection, function: Callable[[Any], Any], parent: int, ask_kernel: bool) -> None:
    """Answer items until the pipe closes."""
    # Ctrl-C and SIGTERM reach the whole group; the parent decides what happens to us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if ask_kernel and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    voice = threading.Lock()
    is_busy = threading.Event()
    threading.Thread(target=_beat, args=(connection, voice, is_busy, parent), daemon=True).start()
    while True:
        try:
            item = connection.recv()
        except (EOFError, OSError):
            return
        is_busy.set()
        result, error = _call(function, item)
        is_busy.clear()
        with voice, contextlib.suppress(BrokenPipeError):  # the parent is gone; the next recv ends us
            connection.send(_Answer(result, error))


def _beat(connection: Connection, voice: threading.Lock, is_busy: threading.Event, parent: int) -> None:
    """Say every two seconds that the work goes on, and end the process when nobody listens."""
    while True:
        time.sleep(_BEAT_S)
        if os.getppid() != parent:
            os._exit(0)
        with voice, contextlib.suppress(OSError):
            if is_busy.is_set():
                connection.send(None)


def _measure_processor_s(pid: int | None) -> float:
    """Return the processor time a process has used; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"ended with exit code {code}"
