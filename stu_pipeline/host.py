"""What this process may use of the machine it runs on: cores and memory, a container's limits included."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CONTAINER = Path("/sys/fs/cgroup")


def count_usable_cores() -> int:
    """Count the cores this process may use: affinity and the container's quota, not the machine's size."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        cores = os.cpu_count() or 1
    return max(1, min(cores, _read_container_cores() or cores))


def measure_free_ram_gib() -> float:
    """Return the memory this process may still use, in GiB (the container's limit included)."""
    free = [_read_available_gib(), _read_container_gib()]
    return min(value for value in free if value is not None)


def _read_available_gib() -> float:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 2**20
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30 / 2


def _read_container_gib() -> float | None:
    try:
        limit = (_CONTAINER / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CONTAINER / "memory.current").read_text(encoding="ascii"))
        lines = (_CONTAINER / "memory.stat").read_text(encoding="ascii").splitlines()
        counts = dict(line.split(maxsplit=1) for line in lines if " " in line)
        # Cached file content counts as used, but makes room when memory is needed.
        used -= int(counts.get("inactive_file", 0)) + int(counts.get("active_file", 0))
        return None if limit == "max" else max(0.0, (int(limit) - used) / 2**30)
    except (OSError, ValueError):
        return None


def _read_container_cores() -> int | None:
    try:
        quota, period = (_CONTAINER / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return None
