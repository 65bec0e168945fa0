"""The `stu` command: turns errors into one clear line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType
from typing import Any, NoReturn

BUG_EXIT_CODE = 1
USAGE_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130
TERMINATED_EXIT_CODE = 143


class _TerminatedError(BaseException):
    """SIGTERM, raised where the program is, so that everything is closed and noted as after Ctrl-C."""


def main() -> NoReturn:
    """Run the command line and exit with its code (docs/reference/errors.md)."""
    signal.signal(signal.SIGTERM, _terminate)
    if hasattr(signal, "SIGUSR1"):  # asks for a checkpoint; by default it would end us where there is nothing to save
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        code = run(sys.argv[1:])
    except _TerminatedError:
        sys.stderr.write("error: stopped by signal 15\n hint: run the same command to continue\n")
        code = TERMINATED_EXIT_CODE
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; never raises for a user error."""
    import typer

    from stu_pipeline.cli.app import app
    from stu_pipeline.cli.console import print_error
    from stu_pipeline.errors import StuError

    # Newer versions of typer carry a click of their own; this is the one that they raise from.
    click_error: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    # `--json` and `--debug` decide how an error looks even when parsing fails half-way.
    as_json, debug = "--json" in arguments, "--debug" in arguments
    try:
        outcome = app(arguments, standalone_mode=False, prog_name="stu")
        return outcome if isinstance(outcome, int) else 0
    except StuError as error:
        if debug:
            traceback.print_exc()
        print_error(error, as_json=as_json)
        return error.exit_code
    except typer.Exit as stop:
        return stop.exit_code
    except click_error as problem:
        problem.show()
        return USAGE_EXIT_CODE
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("error: interrupted\n")
        return INTERRUPTED_EXIT_CODE
    except Exception as error:
        return _report_bug(error)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    raise _TerminatedError


def _report_bug(error: Exception) -> int:
    if isinstance(error, BrokenPipeError):  # the reader of our output is gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BUG_EXIT_CODE
    traceback.print_exception(error)
    sys.stderr.write("error: this is a bug in stu, not in your data\n hint: report the lines above\n")
    return BUG_EXIT_CODE
