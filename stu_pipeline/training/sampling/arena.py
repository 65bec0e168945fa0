"""Memory that worker processes write samples into and the training reads them from: nothing is copied or pickled."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.errors import MemoryLimitError
from stu_pipeline.storage import storage_errors

_ALIGNMENT = 64  # of every array: what vector instructions like
_PAGE = mmap.PAGESIZE


class Arena:
    """Equal places in memory that this process and its workers share. It pickles only while a process is started.

    Memory is taken when it is first written. It belongs to no folder, so a container's small /dev/shm does not
    matter, and the system takes it back when the last process ends, however that happens.

    Args:
        num_places: how many samples fit.
        place_bytes: the largest sample.

    Raises:
        MemoryLimitError: the system refuses the memory.
        StorageError: a limit on the size of files (`ulimit -f`) or a full disk leaves no room.
    """

    def __init__(self, num_places: int, place_bytes: int) -> None:
        self.num_places = num_places
        # Each array of a place may begin a little later than the one before it ends.
        self.place_bytes = _round_up(place_bytes + 4 * _ALIGNMENT, _PAGE)
        size = num_places * self.place_bytes
        self._file = _open_memory(size)
        try:
            self._memory = mmap.mmap(self._file, size)
        except (OSError, OverflowError) as error:
            self.close_file()
            problem = f"no memory for {num_places} training samples of {place_bytes / 2**20:.0f} MiB"
            raise MemoryLimitError(problem, hint="use fewer workers, or free some memory") from error

    def open_place(self, index: int) -> Place:
        """Return one place, empty. What was handed out there before is written over."""
        return Place(self._memory, index * self.place_bytes, self.place_bytes)

    def close_file(self) -> None:
        """Close the file: no more processes can be given the memory. It stays until the last array in it is gone."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __reduce__(self) -> tuple[object, ...]:
        """Hand the open file to the process that is being started."""
        return _attach, (self.num_places, self.place_bytes, reduction.DupFd(self._file))


class Place:
    """One place of an arena: hands out arrays one after another."""

    def __init__(self, memory: mmap.mmap, start: int, size: int) -> None:
        self._memory = memory
        self._next = start
        self._end = start + size

    def allocate(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return the next array; its content is what was there before.

        Raises:
            ValueError: a sample is larger than it was said to be; a bug of ours.
        """
        start = _round_up(self._next, _ALIGNMENT)
        self._next = start + math.prod(shape) * np.dtype(dtype).itemsize
        if self._next > self._end:
            raise ValueError(f"an array of {shape} does not fit the {self._end - start} bytes left of its place")
        return np.ndarray(shape, dtype, buffer=self._memory, offset=start)


def _attach(num_places: int, place_bytes: int, file: Any) -> Arena:
    arena = Arena.__new__(Arena)
    arena.num_places, arena.place_bytes = num_places, place_bytes
    descriptor = file.detach()
    arena._memory, arena._file = mmap.mmap(descriptor, num_places * place_bytes), descriptor
    arena.close_file()
    return arena


def _open_memory(size: int) -> int:
    """Open a file of a size that has no name."""
    if hasattr(os, "memfd_create"):
        with storage_errors(Path("memory for training samples")):
            descriptor = os.memfd_create("stu_samples")
            os.ftruncate(descriptor, size)
        return descriptor
    with storage_errors(Path(tempfile.gettempdir(), "memory for training samples")), tempfile.TemporaryFile() as file:
        file.truncate(size)
        return os.dup(file.fileno())


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
