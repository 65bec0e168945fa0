"""Read boxes of preprocessed cases: only the blocks a box touches are unpacked. No torch here.

Reads: `<case>.b2nd` and `<case>_seg.b2nd` (or the unpacked `.npy` of older nnU-Net), and for a cascade
`<case>.b2nd` of the previous stage's predictions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stu_pipeline.errors import DataError
from stu_pipeline.training.sampling.places import HINT

OUTSIDE_DATA = 0.0
OUTSIDE_LABELS = -1
# What blosc2 and NumPy raise for files that are not what their header says.
_READ_ERRORS = (OSError, RuntimeError, ValueError, TypeError, KeyError, EOFError)
# Windows refuses to replace a file that is mapped, and blosc2 fails there.
_MAPPING = {} if sys.platform == "win32" else {"mmap_mode": "r"}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class OpenCase:
    """The arrays of one case, opened and not yet read. It is cheap (0.1 ms): nothing is gained by keeping it.

    `shape` is that of the image, `(z, y, x)`; a flat image has one slice.
    """

    case_id: str
    folder: Path
    data: Any
    labels: Any
    previous: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of the image in voxels, `(z, y, x)`."""
        return tuple(int(size) for size in self.data.shape[1:])


def open_case(folder: Path, case_id: str, *, num_channels: int, previous_folder: Path | None = None) -> OpenCase:
    """Open the arrays of a case.

    Args:
        folder: the preprocessed cases.
        case_id: which.
        num_channels: that the plan expects.
        previous_folder: predictions of the previous cascade stage; None without a cascade.

    Raises:
        DataError: a file is missing or damaged, or the arrays do not belong together.
    """
    data = _open_array(folder, case_id, case_id)
    labels = _open_array(folder, f"{case_id}_seg", case_id)
    case = OpenCase(case_id=case_id, folder=folder, data=data, labels=labels)
    _require(case, len(data.shape) == 4 and data.dtype.kind == "f", f"an image is {_show(data)}")
    _require(case, data.shape[0] == num_channels, f"it has {data.shape[0]} channels, the plan has {num_channels}")
    fits = labels.dtype.kind == "i" and tuple(labels.shape) == (1, *data.shape[1:])
    _require(case, fits, f"the image is {_show(data)}, the labels are {_show(labels)}")
    if previous_folder is None:
        return case
    previous = _open_array(previous_folder, case_id, case_id)
    fits = previous.dtype.kind in "iu" and tuple(previous.shape) == tuple(data.shape[1:])
    _require(case, fits, f"the image is {_show(data)}, the previous stage's prediction is {_show(previous)}")
    return OpenCase(case_id=case_id, folder=folder, data=data, labels=labels, previous=previous)


def read_box(case: OpenCase, lower: Sequence[int], *, data: NDArray[np.float32], labels: NDArray[np.int16]) -> None:
    """Read a box into arrays that have its size; outside the image they get 0 and -1.

    Args:
        case: the open files.
        lower: first voxel `(z, y, x)`, may be negative.
        data: `(channel, z, y, x)`, written.
        labels: `(1, z, y, x)`, or with the previous stage's prediction `(2, z, y, x)`, written.

    Raises:
        DataError: the voxels cannot be unpacked.
    """
    name = f"{case.case_id}_seg"
    try:
        _copy_box(case.labels, lower, labels[:1], OUTSIDE_LABELS)
        if case.previous is not None:
            name = f"{case.case_id} (previous stage)"
            _copy_box(case.previous, lower, labels[1], OUTSIDE_LABELS)
        name = case.case_id
        _copy_box(case.data, lower, data, OUTSIDE_DATA)
    except _READ_ERRORS as error:
        problem = f"the voxels '{name}' of case '{case.case_id}' are damaged: {_first_line(error)}"
        raise DataError(problem, where=case.folder, hint=HINT) from error


def _copy_box(array: Any, lower: Sequence[int], out: NDArray[Any], outside: float) -> None:
    """Copy a box of the last three axes; the axes before them are taken whole."""
    num_before = out.ndim - len(lower)
    source, target = [slice(None)] * num_before, [slice(None)] * num_before
    for first, size, extent in zip(lower, out.shape[num_before:], array.shape[num_before:], strict=True):
        begin, end = max(first, 0), min(first + size, extent)
        source.append(slice(begin, max(begin, end)))
        target.append(slice(begin - first, max(begin, end) - first))
    inside = out[tuple(target)]
    if inside.size < out.size:
        out[...] = outside
    if inside.size:
        inside[...] = array[tuple(source)]


def _open_array(folder: Path, name: str, case_id: str) -> Any:
    path = folder / f"{name}.b2nd"
    unpacked = folder / f"{name}.npy"
    try:
        if path.is_file():
            return _open_packed(path)
        if unpacked.is_file():
            return np.load(unpacked, mmap_mode="r", allow_pickle=False)
    except _READ_ERRORS as error:
        problem = f"'{path.name}' of case '{case_id}' is damaged: {_first_line(error)}"
        raise DataError(problem, where=folder, hint=HINT) from error
    if (folder / f"{case_id}.npz").is_file():
        problem = f"case '{case_id}' is packed in '{case_id}.npz', which cannot be read in parts"
        raise DataError(problem, where=folder, hint="train with --augment cpu, or preprocess the dataset again")
    raise DataError(f"case '{case_id}' has no file '{path.name}'", where=folder, hint=HINT)


def _open_packed(path: Path) -> Any:
    import blosc2  # late: it takes 0.2 s

    blosc2.set_nthreads(1)  # the processes are the parallelism
    array = blosc2.open(urlpath=str(path), mode="r", dparams={"nthreads": 1}, **_MAPPING)
    if not isinstance(array, blosc2.NDArray):
        raise ValueError(f"it holds a {type(array).__name__}")
    return array


def _require(case: OpenCase, is_right: bool, problem: str) -> None:
    if not is_right:
        raise DataError(f"case '{case.case_id}' does not fit the plan: {problem}", where=case.folder, hint=HINT)


def _show(array: Any) -> str:
    return f"{'x'.join(str(size) for size in array.shape)} {array.dtype}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
