"""nnU-Net prints; here its words go to a log file instead of the user's terminal.

File descriptors are redirected, not `sys.stdout` alone: nnU-Net prints from worker processes too.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def engine_output(path: Path | None) -> Iterator[None]:
    """Send everything written to stdout and stderr inside the block to the end of `path`.

    Args:
        path: log file; None discards the output.
    """
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    target = os.open(path if path is not None else os.devnull, flags, 0o666)
    _flush()
    saved = [(number, os.dup(number)) for number in (1, 2)]
    try:
        for number, _ in saved:
            os.dup2(target, number)
        # Notebooks and test runners put their own objects into `sys`; these do not write to descriptors.
        stream = os.fdopen(os.dup(target), "w", encoding="utf-8", errors="replace", buffering=1)
        try:
            with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
                yield
        finally:
            with contextlib.suppress(OSError):  # a full disk: the error that ends the block says more
                stream.close()
    finally:
        _flush()
        for number, copy in saved:
            os.dup2(copy, number)
            os.close(copy)
        os.close(target)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError, OSError):
            stream.flush()
