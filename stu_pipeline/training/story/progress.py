"""Keep the story of a run: its epochs, its state from moment to moment, and their picture.

Writes: `metrics.jsonl`, `status.json`, `progress.png`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar, get_args

from stu_pipeline.errors import StoppedError, StorageError
from stu_pipeline.log import Listener, Notice, Progress, ignore_events
from stu_pipeline.nnunet.events import EpochDone, StepsDone
from stu_pipeline.records import describe
from stu_pipeline.storage import TEMPORARY_PREFIX, append_line, storage_errors, write_text
from stu_pipeline.training.story.picture import draw_progress
from stu_pipeline.workspace import RunPaths

RunState = Literal["starting", "training", "validating", "finished", "stopped", "failed"]
_SCHEMA = 1
_STATUS_INTERVAL_S = 5.0
_FIRST_PICTURE_S = 10.0  # a run that is shorter is drawn once, at its end
_PICTURE_INTERVAL_S = 60.0
# What is drawn or written from time to time may take this share of the time.
_MAX_SHARE = 0.02
_NOT_WRITTEN = (StorageError, OSError)
# Beside these, what matplotlib says about a font or a name that it cannot draw.
_NOT_DRAWN = (*_NOT_WRITTEN, ValueError, RuntimeError)
Event = TypeVar("Event")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """Where a run stood when it last said so: the content of `status.json`."""

    state: RunState
    pid: int
    host: str
    written_s: float
    """Seconds since 1970 by the clock of the machine that trains."""
    steps: StepsDone | None = None
    progress: Progress | None = None
    """How far the final validation is."""
    notice: Notice | None = None
    """The last thing it had to say."""
    num_notices: int = 0
    reason: str = ""
    """Why it stopped or failed."""


class EpochTracker(Protocol):
    """Somebody else who wants to know the epochs (`training/story/trackers.py`)."""

    def add(self, event: EpochDone) -> None:
        """Take one epoch."""

    def close(self) -> None:
        """Finish; called once."""


@dataclass(slots=True)
class _Pace:
    """Limits how often something is done: at an interval, and by the time that it takes."""

    interval_s: float
    due_s: float = field(default=-math.inf)

    def is_due(self) -> bool:
        return time.monotonic() >= self.due_s

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            end = time.monotonic()
            self.due_s = start + max(self.interval_s, (end - start) / _MAX_SHARE)


class RunStory:
    """Writes down what a run sends while it works, so that others can follow it.

    Used as a context it also notes how the run ended. What cannot be written never stops a training:
    it is said once, and epochs that are missing in `metrics.jsonl` are written as soon as it works again.

    Args:
        paths: the run's files.
        first_epoch: where the run begins; later lines of an earlier attempt are dropped.
        trackers: others that get every epoch.
        listen: gets the warnings of the story itself.
        title: what is trained, for the picture.

    Raises:
        StorageError: the folder cannot be written at the start, when nothing can be lost yet.
    """

    def __init__(
        self,
        paths: RunPaths,
        *,
        first_epoch: int,
        trackers: Sequence[EpochTracker] = (),
        listen: Listener = ignore_events,
        title: str = "",
    ) -> None:
        self._paths = paths
        self._trackers = trackers
        self._listen = listen
        self._title = title
        self._rows = [row for row in read_metrics(paths.metrics) if row["epoch"] < first_epoch]
        self._is_torn = False
        self._warned: set[Path] = set()
        self._picture_pace = _Pace(_PICTURE_INTERVAL_S, due_s=time.monotonic() + _FIRST_PICTURE_S)
        self._status_pace = _Pace(_STATUS_INTERVAL_S)
        self._status = RunStatus(state="starting", pid=os.getpid(), host=platform.node(), written_s=time.time())
        self._write_all_rows()
        self._write_status()

    def __enter__(self) -> Self:
        """Begin: the end of the block is the end of the run."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note how the run ended, and close the trackers."""
        if error is None:
            state: RunState = "finished"
        else:
            state = "stopped" if isinstance(error, (StoppedError, KeyboardInterrupt)) else "failed"
        self.close(state, reason="" if error is None else str(error) or type(error).__name__)

    def hear(self, event: object) -> None:
        """Take any event of a training; those that tell nothing of its progress are ignored."""
        if isinstance(event, EpochDone):
            self.add(event)
        elif isinstance(event, StepsDone):
            # From the first step on there is an ETA; later ones wait their turn.
            is_new = self._status.state != "training"
            self._change_status(is_urgent=is_new, state="training", steps=event, progress=None)
        elif isinstance(event, Progress):
            is_new = self._status.progress is None
            self._change_status(is_urgent=is_new, state="validating", progress=event)
        elif isinstance(event, Notice):
            self._change_status(is_urgent=True, notice=event, num_notices=self._status.num_notices + 1)

    def add(self, event: EpochDone) -> None:
        """Append one epoch, pass it to the trackers, and draw the picture when it is time."""
        row = describe(event)
        self._rows.append(row)
        with self._tell_once(self._paths.metrics):
            if self._is_torn:
                self._write_all_rows()
            else:
                self._is_torn = True  # until the line is known to be there
                append_line(self._paths.metrics, json.dumps(row))
            self._is_torn = False
        for tracker in self._trackers:
            tracker.add(event)
        self._change_status(state="training", progress=None)
        if self._picture_pace.is_due():
            self.plot()

    def plot(self) -> None:
        """Draw `progress.png` now."""
        if self._rows:
            with self._picture_pace.measure(), self._tell_once(self._paths.progress_picture, _NOT_DRAWN):
                draw_progress(self._rows, self._paths.progress_picture, title=self._title)

    def close(self, state: RunState, *, reason: str = "") -> None:
        """Note how the run ended, and close the trackers."""
        for tracker in self._trackers:
            tracker.close()
        self._change_status(is_urgent=True, state=state, reason=reason)

    def _change_status(self, *, is_urgent: bool = False, **changes: Any) -> None:
        self._status = dataclasses.replace(self._status, **changes, written_s=time.time())
        if is_urgent or self._status_pace.is_due():
            with self._tell_once(self._paths.status):
                self._write_status()

    def _write_status(self) -> None:
        path = self._paths.status
        document = {"schema": _SCHEMA, **describe(self._status)}
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
        # Complete for every reader, but not flushed to the disk: after a crash of the machine nobody needs it.
        with self._status_pace.measure(), storage_errors(path):
            try:
                temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def _write_all_rows(self) -> None:
        write_text(self._paths.metrics, "".join(json.dumps(row) + "\n" for row in self._rows))

    @contextlib.contextmanager
    def _tell_once(self, path: Path, failures: tuple[type[Exception], ...] = _NOT_WRITTEN) -> Iterator[None]:
        try:
            yield
        except failures as error:
            if path not in self._warned:
                self._warned.add(path)
                text = f"'{path.name}' is not up to date: {error}; the training goes on"
                self._listen(Notice(text=text, is_warning=True))


def read_status(paths: RunPaths) -> RunStatus | None:
    """Read `status.json`; None where there is none that can be understood."""
    try:
        document = json.loads(paths.status.read_text(encoding="utf-8"))
        return RunStatus(
            state=document["state"] if document["state"] in get_args(RunState) else "failed",
            pid=int(document["pid"]),
            host=str(document["host"]),
            written_s=float(document["written_s"]),
            steps=_parse(StepsDone, document["steps"]),
            progress=_parse(Progress, document["progress"]),
            notice=_parse(Notice, document["notice"]),
            num_notices=int(document["num_notices"]),
            reason=str(document["reason"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`; a cut last line (the run was killed) is left out. No file gives no rows."""
    rows: list[dict[str, Any]] = []
    if not path.is_file():
        return rows
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(row, dict) or parse_epoch(row) is None:
            break
        rows.append(row)
    return rows


def parse_epoch(row: dict[str, Any]) -> EpochDone | None:
    """Turn a line of `metrics.jsonl` into its event; None when it lacks what an epoch must have."""
    # Losses that were not finite are null in JSON.
    losses: dict[str, Any] = {
        name: math.nan for name in ("train_loss", "val_loss") if name in row and row[name] is None
    }
    return _parse(EpochDone, {**row, **losses})


def _parse(kind: type[Event], values: dict[str, Any] | None) -> Event | None:
    """Build an event from its fields in a file; fields of other versions are passed over."""
    if values is None:
        return None
    known = {name: value for name, value in values.items() if name in getattr(kind, "__dataclass_fields__", {})}
    try:
        return kind(**known)
    except TypeError:
        return None
