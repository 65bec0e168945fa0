"""The only printer: results on stdout, talk on stderr."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from stu_pipeline.errors import StuError
from stu_pipeline.log import LOGGER_NAME, Notice, Progress
from stu_pipeline.records import describe

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

_PLAIN_INTERVAL_S = 10.0
_NUMBER = re.compile(r"-|[<>~+-]?\d[\d.,x]*(%| [a-zA-Z]{1,3})?|\d+ (min|h|d) \d+ (s|min|h)")


class Console:
    """Render what a command has to say.

    Args:
        as_json: print one JSON document on stdout and nothing else there.
        verbosity: -1 errors only, 0 normal, 1 log records of level INFO, 2 DEBUG.
    """

    def __init__(self, *, as_json: bool = False, verbosity: int = 0) -> None:
        self.as_json = as_json
        self.verbosity = verbosity
        # A copy of stderr: the engine's own output is redirected away from descriptor 2 while it works.
        self.talk = _duplicate(sys.stderr)
        if self.talk is not sys.stderr:
            # Commands also run inside other programs, which should not lose a descriptor each time.
            weakref.finalize(self, self.talk.close)
        self._bar: Bar | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_plain: dict[str, float] = {}
        self._step_start: dict[str, float] = {}
        if verbosity > 0:
            handler = logging.StreamHandler(self.talk)
            handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
            logger = logging.getLogger(LOGGER_NAME)
            logger.addHandler(handler)
            logger.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)

    def say(self, text: str) -> None:
        """Talk: one line on stderr."""
        text = _escape_lines(text)
        if self.verbosity >= 0:
            if self._bar is not None:
                self._bar.console.print(text, markup=False, highlight=False)
            else:
                self.talk.write(f"{text}\n")
                self.talk.flush()

    def warn(self, text: str) -> None:
        """Talk: a warning on stderr."""
        self.say(f"warning: {text}")

    def show(self, text: str) -> None:
        """Result: text on stdout (nothing with `--json`)."""
        if not self.as_json:
            self.close()
            sys.stdout.write(f"{_escape_lines(text)}\n")
            sys.stdout.flush()

    def show_table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Result: a table on stdout (nothing with `--json`). Numbers are right-aligned by the caller's columns."""
        if self.as_json:
            return
        self.close()
        from rich.console import Console as Terminal
        from rich.table import Table
        from rich.text import Text

        terminal = Terminal(highlight=False, width=None if sys.stdout.isatty() else 160)
        table = Table(header_style="bold", box=None, pad_edge=False)
        for index, column in enumerate(columns):
            numeric = bool(rows) and all(_looks_numeric(row[index]) for row in rows)
            table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*[Text(_escape_lines(cell)) for cell in row])  # not str: brackets in a name are no markup
        terminal.print(title, style="italic", markup=False)
        terminal.print(table)

    def finish(self, result: object, *, next_command: str = "") -> None:
        """Print the JSON result, or the command that comes next."""
        self.close()
        if self.as_json:
            document = describe(result)
            if isinstance(document, dict) and next_command:
                document["next"] = next_command
            sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
        elif next_command:
            sys.stdout.write(f"next: {next_command}\n")
        sys.stdout.flush()

    def listen(self, event: object) -> None:
        """Render the events every stage may send."""
        if isinstance(event, Progress):
            self._show_progress(event)
        elif isinstance(event, Notice):
            self.warn(event.text) if event.is_warning else self.say(event.text)

    def close(self) -> None:
        """Take a live progress bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._tasks.clear()

    def _show_progress(self, event: Progress) -> None:
        if self.verbosity < 0:
            return
        if self.talk.isatty():
            self._show_bar(event)
            return
        now = time.monotonic()
        start = self._step_start.setdefault(event.step, now)
        is_due = now - self._last_plain.get(event.step, 0.0) >= _PLAIN_INTERVAL_S
        if event.done >= event.total or is_due:
            self._last_plain[event.step] = now
            elapsed = now - start
            left = f", {format_seconds(elapsed / event.done * (event.total - event.done))} left" if event.done else ""
            self.say(f"{event.step}: {event.done} of {event.total}{left if event.done < event.total else ''}")

    def _show_bar(self, event: Progress) -> None:
        if self._bar is None:
            from rich.console import Console as Terminal
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(
                *columns,
                console=Terminal(file=self.talk),
                # Inside a stage these may be the engine's log, which is closed when the bar gives them back.
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._bar.start()
        if event.step not in self._tasks:
            self._tasks[event.step] = self._bar.add_task(event.step, total=event.total)
        self._bar.update(self._tasks[event.step], completed=event.done, total=event.total)


def print_error(error: StuError, *, as_json: bool = False) -> None:
    """Print a user error: what, where and one hint on stderr; with `--json` also a document on stdout."""
    lines = [f"error: {escape_controls(str(error))}"]
    lines += [f"     - {escape_controls(detail)}" for detail in error.details]
    if error.where is not None:
        lines.append(f"   in: {escape_controls(str(error.where))}")
    if error.hint:
        lines.append(f" hint: {escape_controls(error.hint)}")
    sys.stderr.write("\n".join(lines) + "\n")
    if as_json:
        document: dict[str, Any] = {
            "error": str(error),
            "exit_code": error.exit_code,
            "where": str(error.where) if error.where is not None else None,
            "hint": error.hint or None,
            "details": list(error.details),
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")


def format_seconds(seconds: float) -> str:
    """Write a duration as people say it: `42 s`, `3 min 05 s`, `2 h 10 min`, `3 d 4 h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def escape_controls(text: str) -> str:
    """Replace control characters, so that a file name cannot drive the terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _escape_lines(text: str) -> str:
    return "\n".join(escape_controls(line) for line in text.split("\n"))


def _duplicate(stream: TextIO) -> TextIO:
    try:
        return os.fdopen(os.dup(stream.fileno()), "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    except (OSError, ValueError):  # not a real file, for example in a notebook
        return stream


def _looks_numeric(cell: str) -> bool:
    return bool(_NUMBER.fullmatch(cell))
