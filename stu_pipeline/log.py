"""Talk: logging, silent as a library and a file per run, and the events stages send while they work."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

LOGGER_NAME = "stu_pipeline"
logging.getLogger(LOGGER_NAME).addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`done` of `total` items of one step are finished; `item` is the last one."""

    step: str
    done: int
    total: int
    item: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something the user should know; the work goes on."""

    text: str
    is_warning: bool = False


Listener = Callable[[object], None]
"""Receives the events of a stage: `Progress`, `Notice` and the stage's own types."""


def ignore_events(event: object) -> None:
    """Drop every event: the listener of a silent library call."""


@contextlib.contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append every record of the package to `path` (UTF-8) inside the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger(LOGGER_NAME)
    previous = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    # A library that calls logging.basicConfig would write every line a second time.
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(previous[0])
        logger.propagate = previous[1]
        with contextlib.suppress(OSError):  # the disk is full: whoever wrote more than a log says so
            handler.close()
