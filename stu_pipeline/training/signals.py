"""Turn SIGTERM and SIGINT into a flag that the training loop reads at its next step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class StopFlag:
    """Remembers that a stop was asked for, and by which signal."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def is_set(self) -> bool:
        """Tell whether to stop."""
        return self.signal_number is not None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Catch the first SIGTERM or SIGINT inside the block; a second one ends the process at once.

    Loader processes inherit the handler by fork: there SIGTERM keeps its usual meaning, and SIGINT
    (Ctrl-C reaches the whole group) is left to the parent.
    """
    flag = StopFlag()
    owner = os.getpid()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # handlers can only be set in the main thread
        return

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if flag.is_set():
            signal.signal(number, signal.SIG_DFL)
            os.kill(owner, number)
        flag.signal_number = number

    previous: dict[int, Any] = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
