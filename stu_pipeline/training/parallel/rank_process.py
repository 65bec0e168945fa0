"""What a started process does: call one function, and send its events and its outcome to the parent.

It does not outlive the parent: when that one is gone it is asked to save and stop, and ends soon in any case.
No torch here: the processes of the loader import this module too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from stu_pipeline.errors import StuError
from stu_pipeline.log import Listener, ignore_events

ORPHAN_GRACE_S = 30.0
"""How long a process whose parent is gone may take to save."""
_BEAT_S = 1.0
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to call, and for whom."""

    function: Callable[..., Any]
    """Importable; called as `function(config, listen=...)`."""
    config: Any
    sends_events: bool
    command_line: list[str]
    """The parent's, for the records that are written."""
    parent: int
    asks_kernel: bool
    """Whether the kernel may tell us of the parent's end: it means the thread that started us."""


class Ready:
    """The process has begun and can take signals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the call ended: with a result, or an error that a user can act on."""

    result: Any = None
    error: StuError | None = None
    exit_code: int = 0
    """Of the error: a stop's own does not pickle."""


def main() -> int:
    """Serve the pipe whose number is the first argument; return the exit code."""
    # A checkpoint cannot be asked for before there is something to save; the training sets its own handlers.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    connection = Connection(int(sys.argv[1]))
    voice = threading.Lock()

    def send(message: object) -> None:
        with voice, contextlib.suppress(OSError):  # the parent is gone; the watch ends us
            connection.send(message)

    send(Ready())
    try:
        job: Job = connection.recv()
    except EOFError:
        return 1
    _follow_parent(job)
    sys.argv = list(job.command_line)
    listen: Listener = send if job.sends_events else ignore_events
    try:
        outcome = Outcome(result=job.function(job.config, listen=listen))
    except StuError as error:
        outcome = Outcome(error=error, exit_code=error.exit_code)
    send(outcome)
    return outcome.exit_code


def _follow_parent(job: Job) -> None:
    is_told = job.asks_kernel and sys.platform == "linux"
    if is_told:
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    # The kernel says nothing of an end that came before it was asked.
    is_told = is_told and os.getppid() == job.parent
    threading.Thread(target=_watch, args=(job.parent, is_told), daemon=True).start()


def _watch(parent: int, is_told: bool) -> None:
    """End this process after its parent: first politely, where the kernel does not do it."""
    while os.getppid() == parent:
        time.sleep(_BEAT_S)
    if not is_told:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
