"""A folder of DICOM slices as one volume: sorted, checked, in Hounsfield units or the scanner's own.

Slices are read in a child process, so that a file that crashes the reader costs one case. DICOM has no checksum:
cut files and missing slices are found, flipped bits in voxels and slices missing at an end are not.

Reads: every DICOM file of a folder.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.formats.dicom_files import list_slice_files
from stu_pipeline.datasets.formats.dicom_order import order_slices
from stu_pipeline.datasets.formats.dicom_slices import SliceHeader, SliceRequest, read_slices
from stu_pipeline.datasets.volume import Grid
from stu_pipeline.errors import DataError, MemoryLimitError, StuError
from stu_pipeline.worker_process import BEAT_S, Answer, Patience, WorkerProcess
from stu_pipeline.workers import STALL_S

_HEADERS_PER_REQUEST = 64
_BYTES_PER_REQUEST = 32 << 20
_BYTES_PER_VOXEL = 4


def read_series_header(folder: Path) -> Grid:
    """Read the grid of a series from the headers of all its slices; the voxels are not read.

    Raises:
        DataError: as `read_series`.
    """
    with _SliceReader(folder) as reader:
        return _order(reader, folder)[1]


def read_series(folder: Path) -> tuple[Grid, npt.NDArray[np.float32]]:
    """Read a series as `(1, z, y, x)` float32, every slice with its own slope and intercept.

    Raises:
        DataError: a slice that is cut, missing, double or of another kind, or that stops the reader; several series.
        MemoryLimitError: the voxels do not fit the memory.
    """
    with _SliceReader(folder) as reader:
        ordered, grid = _order(reader, folder)
        voxels = _allocate(grid)
        files = tuple(header.path for header in ordered)
        count = max(1, _BYTES_PER_REQUEST // (grid.shape[1] * grid.shape[2] * _BYTES_PER_VOXEL))
        start = 0
        for part in reader.read([SliceRequest(part, with_voxels=True) for part in _split(files, count)]):
            voxels[0, start : start + len(part)] = part
            start += len(part)
    return grid, voxels


def _allocate(grid: Grid) -> npt.NDArray[np.float32]:
    try:
        return np.empty((1, *grid.shape), dtype=np.float32)
    except MemoryError as error:
        gib = grid.num_voxels * _BYTES_PER_VOXEL / 2**30
        raise MemoryLimitError(
            f"not enough memory for the {gib:.2f} GiB of '{grid.path.name}'", where=grid.path.parent
        ) from error


def _order(reader: _SliceReader, folder: Path) -> tuple[list[SliceHeader], Grid]:
    parts = _split(list_slice_files(folder), _HEADERS_PER_REQUEST)
    headers = [header for part in reader.read([SliceRequest(files) for files in parts]) for header in part]
    return order_slices(headers, folder)


def _split(files: tuple[Path, ...], count: int) -> list[tuple[Path, ...]]:
    return [files[start : start + count] for start in range(0, len(files), count)]


class _SliceReader:
    """The child process of one series; started at the first request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._worker: WorkerProcess | None = None

    def __enter__(self) -> _SliceReader:
        return self

    def __exit__(self, *error: object) -> None:
        if self._worker is not None:
            self._worker.stop()

    def read(self, requests: Sequence[SliceRequest]) -> Iterator[Any]:
        """Yield what `read_slices` returns for each request, in order."""
        if multiprocessing.current_process().daemon:  # may have no children, and is a child itself
            yield from map(read_slices, requests)
            return
        if self._worker is None:
            self._worker = WorkerProcess(read_slices, imports_main=False)
        for request in requests:
            self._worker.give(request)
            answer = _wait(self._worker)
            if answer.error is not None:
                raise answer.error
            if answer.fate:
                raise self._explain(self._worker, answer)
            yield answer.result

    def _explain(self, worker: WorkerProcess, answer: Answer) -> StuError:
        error = worker.explain(answer, self.folder.name, where=self.folder)
        if isinstance(error, DataError):
            error.hint = "a slice stops the DICOM reader: export the series again, or convert it to .nii.gz"
        return error


def _wait(worker: WorkerProcess) -> Answer:
    patience = Patience(silent_s=STALL_S)
    while True:
        start = time.monotonic()
        is_ready = bool(wait([worker.connection], timeout=BEAT_S))
        answer = worker.take() if is_ready else worker.check(min(time.monotonic() - start, BEAT_S), patience)
        if answer is not None:
            return answer
