"""One spawned process that answers items over a pipe of its own, and is never silently lost.

It says every two seconds that it works; one that is silent and uses no processor is taken for stopped, named
and ended. It leaves signals to its parent, and does not outlive a parent that was killed.
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
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker, util
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from stu_pipeline.errors import DataError, MemoryLimitError, StuError

BEAT_S = 2.0
_JOIN_S = 5.0
_EXIT_BUG = 1  # what Python exits with after an uncaught exception
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
_FIRST_AT_EXIT = 10  # multiprocessing sends SIGTERM later and waits for ever: workers ignore it
# Ctrl-C, SIGTERM and SIGUSR1 may reach the whole group; the parent decides what happens to a worker.
_LEFT_TO_PARENT = (signal.SIGINT, signal.SIGTERM, *((signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()))
# One thread per worker: the processes are the parallelism. Read by the libraries of numpy, scipy and blosc2 at import.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a busy worker may keep us waiting, in seconds that we really waited for it."""

    silent_s: float
    """Without a word and without using the processor."""
    blocked_s: float | None = None
    """The same, while the system (a disk that does not answer) holds it; None: `silent_s`."""
    starting_s: float | None = None
    """The same, before its first word: imports may come from a slow disk; None: `silent_s`."""
    answer_s: float = float("inf")
    """For one answer, however alive the worker is."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came through a worker's pipe. `fate` says how it ended, when it did."""

    result: Any = None
    error: StuError | None = None
    fate: str = ""


class WorkerProcess:
    """A process that calls one function, and our end of its pipe. Answers come in the order of the items.

    Args:
        function: importable or picklable; what it imports is what the worker imports.
        imports_main: whether the worker imports the script that was started, as it must for a function of that script.
            Without, a script that imports torch costs nothing, and one without a guard is not run again.
    """

    def __init__(self, function: Callable[[Any], Any], *, imports_main: bool = True) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # The kernel's signal comes when the thread that started a process ends, so only the main thread may ask.
        is_main_thread = threading.current_thread() is threading.main_thread()
        self.process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, function, os.getpid(), is_main_thread), daemon=True
        )
        resource_tracker.ensure_running()  # its start would let our signals through again
        with _single_threaded(), _blocked_signals(), contextlib.nullcontext() if imports_main else _hidden_main():
            self.process.start()
        theirs.close()
        self._kill_at_exit = util.Finalize(self, _kill, args=(self.process,), exitpriority=_FIRST_AT_EXIT)
        self.is_alive = True
        self._has_spoken = False
        self._silent_s = 0.0
        self._unanswered_s = 0.0
        self._processor_s: float | None = None

    def give(self, item: Any, *, is_first: bool = True) -> None:
        """Send an item.

        Args:
            item: pickles.
            is_first: nothing else is waiting for an answer, so its time begins now.
        """
        if is_first:
            self._silent_s, self._unanswered_s, self._processor_s = 0.0, 0.0, None
        with contextlib.suppress(OSError):  # it died while idle; the answer will say so
            self.connection.send(item)

    def take(self) -> Answer | None:
        """Read what is in the pipe; None for a sign of life."""
        self._silent_s, self._processor_s = 0.0, None
        try:
            message: Answer | None = self.connection.recv()
        except (EOFError, OSError):
            return self._end("")
        self._has_spoken = True
        if message is not None:
            self._unanswered_s = 0.0
        return message

    def check(self, waited_s: float, patience: Patience) -> Answer | None:
        """Note a time without a word; end the worker when it kept us waiting for too long."""
        self._silent_s += waited_s
        self._unanswered_s += waited_s
        state, processor_s = _observe(self.process.pid)
        if self._processor_s is None or processor_s != self._processor_s:
            # Work that holds Python's lock keeps a worker silent, but not idle.
            self._silent_s = waited_s if self._processor_s is not None else self._silent_s
            self._processor_s = processor_s
        if self._silent_s >= self._choose_limit(state, patience):
            return self._end(f"did not respond for {self._silent_s:.0f} s and was ended")
        if self._unanswered_s >= patience.answer_s and self._has_spoken:
            return self._end(f"has been busy with it for {self._unanswered_s:.0f} s and was ended")
        return None

    def explain(self, answer: Answer, name: str, *, where: Path | None = None) -> StuError:
        """Turn a fate into an error.

        Args:
            answer: with the fate of this worker.
            name: what it worked on.
            where: the files it read.

        Raises:
            RuntimeError: a bug of ours ended it.
        """
        if self.process.exitcode == _EXIT_BUG:
            raise RuntimeError(f"a worker failed on '{name}', its traceback is above")
        problem = f"the worker process for '{name}' {answer.fate}"
        if answer.fate == _describe_exit(-signal.SIGKILL):
            hint = "out of memory is the usual reason: use fewer workers, or free some memory"
            return MemoryLimitError(problem, where=where, hint=hint)
        return DataError(problem, where=where, hint="run the same command again, with fewer workers")

    def stop(self) -> None:
        """End the process now; what it was doing is lost."""
        self.connection.close()
        self._kill_at_exit()
        self.process.join(_JOIN_S)

    def _choose_limit(self, state: str, patience: Patience) -> float:
        if state == "T":  # stopped by a signal: nothing else looks like it
            return patience.silent_s
        if state == "D" and patience.blocked_s is not None:
            return patience.blocked_s
        if not self._has_spoken and patience.starting_s is not None:
            return patience.starting_s
        return patience.silent_s

    def _end(self, fate: str) -> Answer:
        self.is_alive = False
        if fate:
            self.process.kill()
        self.process.join(_JOIN_S)
        return Answer(fate=fate or _describe_exit(self.process.exitcode))


def call(function: Callable[[Any], Any], item: Any) -> tuple[Any, StuError | None]:
    """Call a function; return its result, or the error a user can act on."""
    try:
        return function(item), None
    except StuError as error:
        return None, error
    except MemoryError:
        return None, MemoryLimitError("not enough memory for this case", hint="use fewer workers, or free some memory")


def stop_all(workers: Sequence[WorkerProcess]) -> None:
    """End several processes: all are told before one is waited for."""
    for worker in workers:
        _kill(worker.process)
    for worker in workers:
        worker.stop()


def _kill(process: SpawnProcess) -> None:
    if process.is_alive():
        process.kill()


@contextlib.contextmanager
def _single_threaded() -> Iterator[None]:
    previous = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Keep signals back: a process started here inherits that, and is safe until it ignores them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_PARENT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Show an empty main module to what starts a process: it tells the new one to import what it finds there."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(connection: Connection, function: Callable[[Any], Any], parent: int, ask_kernel: bool) -> None:
    """Answer items until the pipe closes."""
    for number in _LEFT_TO_PARENT:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT_TO_PARENT)
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
        result, error = call(function, item)
        is_busy.clear()
        with voice, contextlib.suppress(BrokenPipeError):  # the parent is gone; the next recv ends us
            connection.send(Answer(result, error))


def _beat(connection: Connection, voice: threading.Lock, is_busy: threading.Event, parent: int) -> None:
    """Say every two seconds that the work goes on, and end the process when nobody listens."""
    while True:
        time.sleep(BEAT_S)
        if os.getppid() != parent:
            os._exit(0)
        with voice, contextlib.suppress(OSError):
            if is_busy.is_set():
                connection.send(None)


def _observe(pid: int | None) -> tuple[str, float]:
    """Return the state of a process and the processor time it has used; '' and 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return "", 0.0
    return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"ended with exit code {code}"
