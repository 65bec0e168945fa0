"""Turn signals into flags that the training loop reads at its next step.

SIGTERM and SIGINT ask for a checkpoint and the end, SIGUSR1 for a checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

ONE_STOP_S = 2.0
"""A second stop that comes sooner is the first one again."""


class SignalFlags:
    """Remembers what was asked for, and by which signal."""

    def __init__(self) -> None:
        self.stop_signal: int | None = None
        self.wants_save = False

    def is_stop_asked(self) -> bool:
        """Tell whether to stop."""
        return self.stop_signal is not None


@contextlib.contextmanager
def catch_signals() -> Iterator[SignalFlags]:
    """Catch SIGTERM, SIGINT and SIGUSR1 inside the block; a second stop ends the process at once.

    Loader processes inherit the handler by fork: there SIGTERM keeps its usual meaning, and SIGINT
    (Ctrl-C reaches the whole group) and SIGUSR1 are left to the parent.
    """
    flags = SignalFlags()
    owner = os.getpid()
    asked_s = [0.0]
    if threading.current_thread() is not threading.main_thread():
        yield flags  # handlers can only be set in the main thread
        return

    def note_stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if flags.is_stop_asked():
            # Slurm, torchrun and Ctrl-C reach a process directly and through its parent: that is one stop, not two.
            if time.monotonic() - asked_s[0] < ONE_STOP_S:
                return
            signal.signal(number, signal.SIG_DFL)
            os.kill(owner, number)
        asked_s[0] = time.monotonic()
        flags.stop_signal = number

    def note_save(number: int, frame: FrameType | None) -> None:
        flags.wants_save = os.getpid() == owner

    handlers = {signal.SIGTERM: note_stop, signal.SIGINT: note_stop, signal.SIGUSR1: note_save}
    previous: dict[int, Any] = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield flags
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
