"""Read how much memory a piece of work takes: on a CUDA device, or in this process on the CPU."""

from __future__ import annotations

import contextlib
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
# What PyTorch and its libraries say when memory runs out but do not raise as OutOfMemoryError.
_OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Peak memory, in bytes."""

    peak: int
    """On CUDA what nvidia-smi shows; on the CPU the growth of this process."""
    tensors: int | None = None
    """The part of it that tensors filled; CUDA only."""
    outside: int | None = None
    """The part that PyTorch did not ask for: driver, libraries, other programs on the same device; CUDA only."""


class CudaMeter:
    """Measures the caching allocator's pool, and what the driver counts beside it.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def start(self) -> None:
        """Forget earlier peaks; what is held now counts."""
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)

    def read(self) -> MemoryUse:
        """Return the peak since `start`."""
        torch.cuda.synchronize(self._device)
        free, total = torch.cuda.mem_get_info(self._device)
        outside = max(0, total - free - torch.cuda.memory_reserved(self._device))
        return MemoryUse(
            peak=torch.cuda.max_memory_reserved(self._device) + outside,
            tensors=torch.cuda.max_memory_allocated(self._device),
            outside=outside,
        )


class ProcessMeter:
    """Measures the resident memory of this process, from where it stood when the meter was made.

    Memory that the process freed and kept is not seen as growth again, so a fresh process measures best.
    """

    def __init__(self) -> None:
        with contextlib.suppress(OSError):  # Linux lets a process forget its own peak
            _CLEAR.write_text("5", encoding="ascii")
        self._before = _read_status("VmRSS") or _read_peak()

    def start(self) -> None:
        """Do nothing: the memory of the first steps is part of what a process needs."""

    def read(self) -> MemoryUse:
        """Return the growth up to the peak."""
        return MemoryUse(peak=max(0, (_read_status("VmHWM") or _read_peak()) - self._before))


def open_meter(device: torch.device) -> CudaMeter | ProcessMeter:
    """Return the meter of a device. Make it before anything that is to be measured."""
    return CudaMeter(device) if device.type == "cuda" else ProcessMeter()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on a device or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY_WORDS)


def is_device_gone(error: BaseException) -> bool:
    """Tell whether an error means that the GPU no longer answers: lost, reset, or broken by an earlier error."""
    return isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))


def _read_status(key: str) -> int | None:
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def _read_peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
