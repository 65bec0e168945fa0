"""Python imports this at start when the folder is on PYTHONPATH: it kills the whole group at one chosen system call.

`KILL_AT_CALL` is `FUNCTION WHEN NAME NUMBER`, for example `replace before case_003.pkl 1`: FUNCTION is `replace`,
`unlink` or `fsync`, WHEN is `before` or `after`, NAME is what the file's name matches, NUMBER counts the calls of
one process. The moments in question last microseconds, too short for looking from outside.
"""

import fnmatch
import os
import signal
from pathlib import Path

_CHOSEN = os.environ.get("KILL_AT_CALL", "")


def _name_file(arguments):
    last = arguments[-1]
    return (Path(f"/proc/self/fd/{last}").readlink() if isinstance(last, int) else Path(last)).name


def _kill_at(function_name, when, pattern, number):
    original = getattr(os, function_name)
    calls = 0

    def call(*arguments, **options):
        nonlocal calls
        is_chosen = fnmatch.fnmatch(_name_file(arguments), pattern)
        calls += is_chosen
        if is_chosen and calls == number and when == "before":
            os.killpg(os.getpgrp(), signal.SIGKILL)
        result = original(*arguments, **options)
        if is_chosen and calls == number and when == "after":
            os.killpg(os.getpgrp(), signal.SIGKILL)
        return result

    setattr(os, function_name, call)


if _CHOSEN:
    _function, _when, _pattern, _number = _CHOSEN.split(" ")
    _kill_at(_function, _when, _pattern, int(_number))
