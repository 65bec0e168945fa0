"""Measure what a training takes of its GPU: peak memory and how busy it is, without ever waiting for it."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch

_INTERVAL_S = 1.0  # NVIDIA's driver averages over up to a second itself


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """What was taken since the last look; None where it cannot be measured, as on the CPU."""

    memory_gib: float | None = None
    """Peak of what PyTorch held; the driver and other programs come on top."""
    utilization: float | None = None
    """Share of the time in which the GPU was busy, 0 to 1."""


class DeviceMeter:
    """Watches a device from a thread of its own; no call of it waits for the GPU.

    Args:
        device: the device of this process; anything but CUDA is not measured.
        interval_s: time between two looks at how busy the GPU is.
        read_busy: returns how busy it is, 0 to 1; None asks the driver, where `pynvml` is installed.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        interval_s: float = _INTERVAL_S,
        read_busy: Callable[[], float | None] | None = None,
    ) -> None:
        self._device = device if device.type == "cuda" else None
        if self._device is not None:
            torch.cuda.reset_peak_memory_stats(self._device)
            read_busy = read_busy or _open_driver(self._device)
        self._read_busy = read_busy
        self._interval_s = interval_s
        self._samples: list[float] = []
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if read_busy is not None:
            self._thread = threading.Thread(target=self._watch, name="device-meter", daemon=True)
            self._thread.start()

    def take(self) -> DeviceUse:
        """Return the use since the last call (or the beginning), and begin anew."""
        with self._guard:
            samples, self._samples = self._samples, []
        return DeviceUse(
            memory_gib=self._take_memory(),
            utilization=sum(samples) / len(samples) if samples else None,
        )

    def close(self) -> None:
        """Stop watching; closing again does nothing."""
        self._stop.set()
        if self._thread is not None:
            # A driver that hangs must not keep the training from ending.
            self._thread.join(timeout=5.0)
            self._thread = None

    def _take_memory(self) -> float | None:
        if self._device is None:
            return None
        peak = torch.cuda.max_memory_reserved(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        return peak / 2**30

    def _watch(self) -> None:
        while self._read_busy is not None and not self._stop.wait(self._interval_s):
            value = self._read_busy()
            if value is None:
                return
            with self._guard:
                self._samples.append(value)


def _open_driver(device: torch.device) -> Callable[[], float | None] | None:
    """Return a function that asks the driver; None where it has no answer (no pynvml, a slice of a GPU)."""
    try:
        failures = (RuntimeError, OSError, importlib.import_module("pynvml").NVMLError)
    except (ImportError, OSError):
        return None
    # A thread has its own current device, so the number is given.
    index = device.index if device.index is not None else torch.cuda.current_device()

    def read_busy() -> float | None:
        try:
            return torch.cuda.utilization(index) / 100
        except failures:
            return None

    return read_busy if read_busy() is not None else None
