"""Probabilities in chunks: a zarr array in one zip file, zstd-compressed, 8 or 16 bits per number.

Reads and writes: `.zarr.zip` (zarr format 3); needs the extra `zarr`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.volume import MAX_VOXELS, Grid
from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.prediction.writing.scratch import make_scratch, unproven
from stu_pipeline.storage import storage_errors, write_atomically

_BUFFER_BYTES = 128 << 20
_MAX_PLANES = 16
_CHUNK = 128
_FORMAT = "stu-probabilities-1"
_BLOCK = 1 << 20
_NUM_AXES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Probabilities:
    """What a `.zarr.zip` holds: float32 `(c, z, y, x)` on the grid of an image."""

    array: npt.NDArray[np.float32]
    names: tuple[str, ...]
    grid: Grid
    is_regions: bool


def require_zarr() -> Any:
    """Import zarr.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise UsageError(
            "probabilities in chunks need the package 'zarr', which is not installed",
            hint="pip install 'stu-pipeline[zarr]'",
        ) from error
    return zarr


def read_probabilities(path: Path, names: Sequence[str] | None = None) -> Probabilities:
    """Read the probabilities of a case.

    Args:
        path: a `.zarr.zip` of `stu predict --probabilities zarr`.
        names: the channels wanted, in that order; all by default.

    Raises:
        DataError: missing, damaged, of another origin, or without such a channel.
        UsageError: zarr is not installed.
    """
    zarr = require_zarr()
    if not path.is_file():
        raise DataError(f"'{path.name}' not found", where=path.parent)
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("no zip file")
        with zarr.storage.ZipStore(path, mode="r") as store:
            stored = zarr.open_array(store, mode="r")
            return _read(path, stored, dict(stored.attrs), names)
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        raise DataError(
            f"'{path.name}' holds no probabilities of stu, or is damaged: {str(error)[:200]}", where=path.parent
        ) from error


def _read(path: Path, stored: Any, attributes: Mapping[str, Any], names: Sequence[str] | None) -> Probabilities:
    if attributes.get("format") != _FORMAT or len(stored.shape) != _NUM_AXES:
        raise ValueError(f"format {attributes.get('format')!r}, expected {_FORMAT!r}")
    known = [str(name) for name in attributes["labels"]]
    wanted = known if names is None else list(names)
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"no channel '{unknown[0]}', found {', '.join(known)}")
    shape = tuple(int(size) for size in stored.shape[1:])
    if math.prod(shape) > MAX_VOXELS:
        raise ValueError(f"{shape} voxels")
    array = np.empty((len(wanted), *shape), dtype=np.float32)
    for index, name in enumerate(wanted):
        array[index] = stored[known.index(name)].astype(np.float32) * np.float32(attributes["scale"])
    z, y, x = (float(step) for step in attributes["spacing_mm_zyx"])
    a, b, c = (float(position) for position in attributes["origin_mm_xyz"])
    grid = Grid(
        shape=(shape[0], shape[1], shape[2]),
        spacing_mm=(z, y, x),
        origin=(a, b, c),
        direction=tuple(float(cosine) for cosine in attributes["direction"]),
        num_dimensions=int(attributes["num_dimensions"]),
        path=path,
    )
    return Probabilities(array, tuple(wanted), grid, bool(attributes["is_regions"]))


class ZarrSink:
    """Collects planes along one axis until a row of chunks is full, and writes each chunk once.

    Args:
        path: final name.
        shape: `(c, z, y, x)`.
        axis: 0 to 2, along which the regions come in order.
        bits: 8 or 16 per number.
        ones_channel: the channel that is 1 where nothing is written; the others are 0.
        attributes: kept with the array.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        *,
        axis: int,
        bits: int,
        ones_channel: int | None,
        attributes: Mapping[str, Any],
    ) -> None:
        zarr = require_zarr()
        self.path = path
        self.shape = shape
        self.axis = axis
        self._largest = (1 << bits) - 1
        self._dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
        self._ones_channel = ones_channel
        plane_bytes = math.prod(shape) // shape[1 + axis] * self._dtype.itemsize
        self._num_planes = min(_MAX_PLANES, max(1, _BUFFER_BYTES // plane_bytes), shape[1 + axis])
        chunks = [1, *(min(_CHUNK, size) for size in shape[1:])]
        chunks[1 + axis] = self._num_planes
        self._first = 0
        self._buffer = self._make_buffer()
        self._scratch = make_scratch(path, suffix=".zip")
        self._store = zarr.storage.ZipStore(self._scratch, mode="w")
        with contextlib.ExitStack() as undo, storage_errors(path):
            undo.callback(self.close)
            self._array = zarr.create_array(
                self._store,
                shape=shape,
                dtype=self._dtype,
                chunks=tuple(chunks),
                compressors=zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
                fill_value=0,
                dimension_names=("c", "z", "y", "x"),
                attributes={"format": _FORMAT, "scale": 1 / self._largest, "bits": bits, **attributes},
            )
            undo.pop_all()

    def write(self, region: tuple[slice, slice, slice], values: npt.NDArray[np.float32]) -> None:
        """Put values into a region that begins where the last one along the axis ended, or later."""
        start, stop = region[self.axis].start, region[self.axis].stop
        if start < self._first:
            raise ValueError(f"plane {start} comes after plane {self._first} was written")
        done = start
        while done < stop:
            while done >= self._first + self._num_planes:
                self._flush()
            end = min(stop, self._first + self._num_planes)
            inside = self._cut(region, slice(done - self._first, end - self._first))
            taken = self._cut((slice(None),) * 3, slice(done - start, end - start))
            for channel, part in enumerate(values[taken]):  # one after the other: rounding makes copies
                self._buffer[channel][inside[1:]] = np.rint(np.clip(part, 0, 1) * self._largest)
            done = end

    def finish(self) -> None:
        """Write the rest, read the file back and give it its name.

        Raises:
            StorageError: the disk is full, or the file is damaged.
        """
        while self._first < self.shape[1 + self.axis]:
            self._flush()
        with storage_errors(self.path):
            self._store.close()
        self._verify()
        write_atomically(self.path, self._move)

    def close(self) -> None:
        """Remove what is not finished."""
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a full disk, closed already, or never opened
            self._store.close()
        self._scratch.unlink(missing_ok=True)

    def _move(self, temporary: Path) -> None:
        self._scratch.replace(temporary)

    def _cut(self, region: tuple[slice, slice, slice], along: slice) -> tuple[slice, ...]:
        parts = list(region)
        parts[self.axis] = along
        return (slice(None), *parts)

    def _make_buffer(self) -> npt.NDArray[Any]:
        shape = list(self.shape)
        shape[1 + self.axis] = min(self._num_planes, shape[1 + self.axis] - self._first)
        buffer = np.zeros(shape, dtype=self._dtype)
        if self._ones_channel is not None:
            buffer[self._ones_channel] = self._largest
        return buffer

    def _flush(self) -> None:
        stop = min(self._first + self._num_planes, self.shape[1 + self.axis])
        along = slice(self._first, stop)
        with storage_errors(self.path):
            # Chunk by chunk: of several in one call, those that zarr has under way when one fails would open the
            # store again after it was closed, and leave a file behind.
            for corner in itertools.product(*self._list_chunks()):
                channel, *region = corner
                region[self.axis] = along
                inside = [*region]
                inside[self.axis] = slice(None)
                self._array[(channel, *region)] = self._buffer[(channel, *inside)]
        self._first = stop
        if stop < self.shape[1 + self.axis]:
            self._buffer = self._make_buffer()

    def _list_chunks(self) -> list[list[slice]]:
        """List the chunks per axis `(c, z, y, x)`; along the walk axis there is one."""
        found = [[slice(channel, channel + 1) for channel in range(self.shape[0])]]
        for axis, size in enumerate(self.shape[1:]):
            step = size if axis == self.axis else _CHUNK
            found.append([slice(start, min(start + step, size)) for start in range(0, size, step)])
        return found

    def _verify(self) -> None:
        """Compare every member on the disk with the checksum of what was written."""
        try:
            with zipfile.ZipFile(self._scratch) as archive:
                for name in archive.namelist():
                    with archive.open(name) as member:
                        while member.read(_BLOCK):
                            pass
        except (zipfile.BadZipFile, EOFError) as error:
            raise unproven(self._scratch, str(error)) from error
