"""Processes that this one starts: heard, passed every signal, and never left behind.

They run in sessions of their own, so that Ctrl-C reaches them through us, once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

from stu_pipeline.errors import StoppedError, StuError
from stu_pipeline.log import Listener
from stu_pipeline.training.parallel.rank_process import Job, Outcome, Ready

STOP_GRACE_S = 300.0
"""How long processes may take to save after a signal; the largest scale writes 12 GB."""
END_GRACE_S = 30.0
"""The same for the others after one has failed, and for leaving after the outcome was sent."""
_SETTLE_S = 2.0  # how long the others may take to say by themselves what is wrong
_CAUSE_S = 10.0  # the same, as long as nobody has said more than that another is gone
_POLL_S = 0.2
_REPEAT_S = 2.0  # what comes sooner is the same signal, sent to the whole group
_TAIL_BYTES = 4000
_START = "import sys; from stu_pipeline.training.parallel.rank_process import main; sys.exit(main())"
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Child:
    """One process, our end of its pipe, and what it wrote to stdout and stderr.

    Args:
        function: importable; called there as `function(config, listen=...)`.
        config: its argument; pickles.
        variables: the whole environment of the process.
        listen: receives its events; None: it sends none.
    """

    def __init__(
        self, function: Callable[..., Any], config: Any, *, variables: Mapping[str, str], listen: Listener | None
    ) -> None:
        self.outcome: Outcome | None = None
        self.ended_s: float | None = None
        self.listen = listen
        self._is_ready = self._owes_save = False
        self.connection: Connection[Any, Any]
        self.connection, theirs = Pipe()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        # It imports what we can import; nothing from the current folder that we would not.
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, str(theirs.fileno())],
            env={**variables, "PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()
        job = Job(
            function=function,
            config=config,
            sends_events=listen is not None,
            command_line=list(sys.argv),
            parent=os.getpid(),
            asks_kernel=threading.current_thread() is threading.main_thread(),
        )
        with contextlib.suppress(OSError):  # it died at once; its exit code will say so
            self.connection.send(job)

    @property
    def exit_code(self) -> int | None:
        """What it ended with, as `subprocess` says it; None while it runs."""
        return self._process.poll()

    @property
    def is_alive(self) -> bool:
        """Tell whether it runs."""
        return self.exit_code is None

    @property
    def has_failed(self) -> bool:
        """Tell whether it has ended, or said that it will, without a result."""
        if self.outcome is not None:
            return self.outcome.error is not None
        return not self.is_alive

    @property
    def error(self) -> StuError | None:
        """The error it sent, if it did."""
        return None if self.outcome is None else self.outcome.error

    @property
    def knows_cause(self) -> bool:
        """Tell whether it has failed for a reason of its own."""
        return self.has_failed and not getattr(self.error, "is_symptom", False)

    @property
    def has_obeyed(self) -> bool:
        """Tell whether it ended as one does that was told to."""
        return isinstance(self.error, StoppedError) or self.exit_code in (-signal.SIGTERM, -signal.SIGKILL)

    def hear(self) -> None:
        """Take in what it has sent, without waiting."""
        while not self.connection.closed:
            try:
                if not self.connection.poll():
                    return
                message = self.connection.recv()
            except (EOFError, OSError):
                self.connection.close()
                return
            self._take(message)

    def send_signal(self, number: int) -> None:
        """Pass a signal on; SIGUSR1 once the process has said that it can take it."""
        self._owes_save = number == signal.SIGUSR1 and not self._is_ready
        if self.is_alive and not self._owes_save:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it now, and its whole session: nothing it started stays."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.connection.close()

    def describe_end(self) -> str:
        """Say how it ended: `was killed by signal 9 (SIGKILL)`, `ended with exit code 1`."""
        code = self._process.wait()
        if code < 0:
            return f"was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"ended with exit code {code}"

    def read_tail(self) -> list[str]:
        """Return the last lines it wrote to stdout and stderr."""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - _TAIL_BYTES))
        return self._output.read().decode("utf-8", errors="replace").splitlines()[-30:]

    def close(self) -> None:
        """End it if need be and give everything back."""
        self.kill()
        self._output.close()

    def _take(self, message: object) -> None:
        if isinstance(message, Ready):
            self._is_ready = True
            if self._owes_save:
                self.send_signal(signal.SIGUSR1)
        elif isinstance(message, Outcome):
            self.outcome = message
            if message.error is not None:
                message.error.exit_code = message.exit_code
            self.ended_s = time.monotonic()
        elif self.listen is not None:
            self.listen(message)


class Crew:
    """The children of this process. Open it with `open_crew`.

    Args:
        stop_grace_s: how long they may take to end after a signal.
    """

    def __init__(self, stop_grace_s: float) -> None:
        self.stop_signal: int | None = None
        self._stop_grace_s = stop_grace_s
        self._stopped_s = 0.0
        self._children: list[Child] = []

    def add(self, child: Child) -> Child:
        """Take a child in; a stop that was asked for reaches it too."""
        self._children.append(child)
        if self.stop_signal is not None:
            child.send_signal(self.stop_signal)
        return child

    def pump(self) -> None:
        """Wait a little, take in what the children say, and end those whose time is over."""
        open_ends = [child.connection for child in self._children if child.is_alive and not child.connection.closed]
        if open_ends:
            wait(open_ends, timeout=_POLL_S)
        else:
            time.sleep(_POLL_S)
        now = time.monotonic()
        is_over = self.stop_signal is not None and now - self._stopped_s > self._stop_grace_s
        for child in self._children:
            # Alive is asked first: what a dead one has sent is then all here.
            was_alive = child.is_alive
            child.hear()
            lingers = child.ended_s is not None and now - child.ended_s > END_GRACE_S
            if was_alive and (is_over or lingers):
                child.kill()

    def wait_together(self, children: Sequence[Child]) -> list[Child]:
        """Wait until all have ended; after a failure the others are asked to end, then made to.

        Returns:
            Those that failed by themselves, not because they were told to end.
        """
        failed_s: float | None = None
        failed: list[Child] = []
        is_told = False
        while any(child.is_alive for child in children):
            self.pump()
            if not is_told and (self.stop_signal is not None or not any(child.has_failed for child in children)):
                failed_s = None
                continue
            failed_s = time.monotonic() if failed_s is None else failed_s
            waited_s = time.monotonic() - failed_s
            settle_s = _SETTLE_S if any(child.knows_cause for child in children) else _CAUSE_S
            if waited_s > settle_s and not is_told:
                failed, is_told = [child for child in children if child.has_failed], True
                for child in children:
                    child.send_signal(signal.SIGTERM)
            if waited_s > _CAUSE_S + END_GRACE_S:
                for child in children:
                    child.kill()
        for child in children:
            child.hear()
        others = [child for child in children if child.has_failed and child not in failed]
        return failed + [child for child in others if not (is_told and child.has_obeyed)]

    def release(self, children: Sequence[Child]) -> None:
        """Give back what ended children held."""
        for child in children:
            child.close()
            self._children.remove(child)

    def note_signal(self, number: int, frame: FrameType | None = None) -> None:
        """Pass a signal on. A second stop ends everything soon; one sent to the whole group counts once."""
        now = time.monotonic()
        if number != signal.SIGUSR1:
            if self.stop_signal is not None and now - self._stopped_s < _REPEAT_S:
                return
            if self.stop_signal is not None:
                self._stop_grace_s = min(self._stop_grace_s, _REPEAT_S)
            self.stop_signal, self._stopped_s = number, now
        for child in self._children:
            child.send_signal(number)

    def close(self) -> None:
        """End every child."""
        for child in self._children:
            child.close()
        self._children.clear()


@contextlib.contextmanager
def open_crew(*, stop_grace_s: float = STOP_GRACE_S) -> Iterator[Crew]:
    """Pass SIGTERM, SIGINT and SIGUSR1 on to the children inside the block, and leave none behind after it."""
    crew = Crew(stop_grace_s)
    # Handlers can only be set in the main thread; elsewhere signals go to whoever runs that.
    numbers = _FORWARDED if threading.current_thread() is threading.main_thread() else ()
    previous: dict[int, Any] = {number: signal.signal(number, crew.note_signal) for number in numbers}
    try:
        yield crew
    finally:
        crew.close()
        for number, handler in previous.items():
            signal.signal(number, handler)
