"""Run a command as a process of its own and measure it: seconds, and the memory of its largest process."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one run took."""

    seconds: float
    peak_mib: float
    """Largest resident size of any one process of the run, its workers included."""
    document: Any = None
    """What the command printed as JSON on its last line, if it did."""


def run_measured(command: Sequence[str], *, variables: Mapping[str, str], log: Path) -> Measurement:
    """Run a command to its end, its words into `log`.

    The system keeps the largest size of every process: that of the command and of the children it waited for comes
    with its end, that of others (a fork server's) is looked up while they live. Keep this process small (no torch):
    a child starts with its parent's mark.

    Raises:
        RuntimeError: the command failed; the end of its log is in the message.
    """
    start = time.perf_counter()
    with log.open("w+", encoding="utf-8") as stream:
        process = subprocess.Popen(
            list(command),
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **variables},
            start_new_session=True,
        )
        peaks, is_over = [0.0], threading.Event()
        watch = threading.Thread(target=_watch_session, args=(process.pid, peaks, is_over), daemon=True)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        is_over.set()
        watch.join()
    text = log.read_text(encoding="utf-8", errors="replace")
    if process.returncode != 0:
        raise RuntimeError(f"exit code {process.returncode} of {' '.join(command)}\n{text[-3000:]}")
    peak = max(*peaks, usage.ru_maxrss / 1024)
    return Measurement(seconds=seconds, peak_mib=peak, document=_find_document(text))


def _watch_session(leader: int, peaks: list[float], is_over: threading.Event) -> None:
    """Note the largest size of every process of a session, again and again."""
    while not is_over.wait(_LOOK_EVERY_S):
        peaks.append(max((_read_peak_mib(pid) for pid in list_session(leader)), default=0.0))


def list_session(leader: int) -> list[int]:
    """List the processes of a session that are alive."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == leader:
                found.append(int(folder.name))
        except ProcessLookupError:
            continue
    return found


def _read_peak_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def _find_document(text: str) -> Any:
    lines = text.strip().splitlines()
    try:
        return json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        return None
