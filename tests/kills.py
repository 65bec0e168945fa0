"""Kill a command with SIGKILL at chosen moments, and look at what it left behind."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
POLL_S = 0.002
_LIMIT_S = 180.0


@dataclass(frozen=True)
class Command:
    """A command line, run in a session of its own so that all its processes can be found and killed."""

    arguments: Sequence[str]
    variables: dict[str, str] = field(default_factory=dict)

    def start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **self.variables}
        return subprocess.Popen(
            list(self.arguments), cwd=REPOSITORY, env=environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def finish(self) -> tuple[int, str, float]:
        """Run to the end; return exit code, output and seconds."""
        start = time.monotonic()
        process = self.start()
        output, _ = process.communicate(timeout=_LIMIT_S)
        return process.returncode, output, time.monotonic() - start

    def watch(self, is_reached: Callable[[], bool]) -> tuple[int, str, float, float]:
        """Run to the end; return exit code, output, seconds until a condition held (or the end), seconds in all."""
        start = time.monotonic()
        process = self.start()
        while process.poll() is None and not is_reached():
            time.sleep(POLL_S)
        reached_s = time.monotonic() - start
        output, _ = process.communicate(timeout=_LIMIT_S)
        return process.returncode, output, reached_s, time.monotonic() - start

    def kill_after(self, seconds: float) -> bool:
        """Kill the whole session after a time; return whether it was still running."""
        deadline = time.monotonic() + seconds
        return self.kill_when(lambda: time.monotonic() >= deadline)

    def kill_when(self, is_reached: Callable[[], bool]) -> bool:
        """Kill the whole session when a condition, asked every 2 ms, holds; return whether it was still running."""
        process = self.start()
        deadline = time.monotonic() + _LIMIT_S
        while process.poll() is None and not is_reached():
            assert time.monotonic() < deadline, "the command neither ended nor got to the point"
            time.sleep(POLL_S)
        was_running = process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=10)
        require_no_process(process.pid)
        return was_running


def python_command(script: str, *arguments: object, **variables: str) -> Command:
    """Run a Python script given as text."""
    return Command((sys.executable, "-c", script, *map(str, arguments)), variables)


def require_no_process(session: int, limit_s: float = 10.0) -> None:
    """Wait until no process of a session is left."""
    deadline = time.monotonic() + limit_s
    while left := list_processes(session):
        assert time.monotonic() < deadline, f"processes {left} of the killed session live on"
        time.sleep(0.01)


def list_processes(session: int) -> list[int]:
    """List the processes of a session that are not only waiting to be collected."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                state = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                if int(state[3]) == session and state[0] not in "ZX":
                    found.append(int(folder.name))
    return found


def hash_tree(folder: Path, *, without: Sequence[str] = ()) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder by relative path; folders count too."""
    tree = {}
    for path in sorted(folder.rglob("*")):
        if not any(path.match(pattern) for pattern in without):
            content = b"" if path.is_dir() else path.read_bytes()
            tree[str(path.relative_to(folder)) + "/" * path.is_dir()] = hashlib.sha256(content).hexdigest()
    return tree
