"""An `.npz` as nnU-Net writes it, float32 `probabilities` `(c, z, y, x)`, without the whole of it in memory.

Writes: the `.npz`, and until it is finished the raw numbers in a hidden file beside it.
"""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stu_pipeline.prediction.writing.scratch import make_scratch, unproven
from stu_pipeline.storage import storage_errors, write_atomically

_MEMBER = "probabilities.npy"
_BLOCK = 16 << 20
_COMPRESSION_LEVEL = 1
_TYPE = np.dtype("<f4")


class NpzSink:
    """Collects regions in a raw file, which is packed at the end: members of a zip can only be written in order.

    Args:
        path: final name.
        shape: `(c, z, y, x)`.
        ones_channel: the channel that is 1 where nothing is written; the others are 0.
        is_covered: whether the regions cover everything, so that nothing need be filled.
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], *, ones_channel: int | None = None, is_covered: bool = False
    ) -> None:
        self.path = path
        self.shape = shape
        self._plane_bytes = shape[2] * shape[3] * _TYPE.itemsize
        self._planes_per_block = max(1, _BLOCK // self._plane_bytes)
        self._scratch = make_scratch(path)
        with contextlib.ExitStack() as undo, storage_errors(path):
            undo.callback(self.close)
            os.truncate(self._scratch, math.prod(shape) * _TYPE.itemsize)
            if ones_channel is not None and not is_covered:
                self._fill(ones_channel)
            undo.pop_all()

    def write(self, region: tuple[slice, slice, slice], values: npt.NDArray[np.float32]) -> None:
        """Put `(c, z, y, x)` values into a region."""
        z, y, x = region
        with storage_errors(self.path):
            for channel, part in enumerate(values):
                for start in range(z.start, z.stop, self._planes_per_block):
                    stop = min(start + self._planes_per_block, z.stop)
                    block = self._read_planes(channel, start, stop, is_full=_is_full(y, x, self.shape))
                    block[:, y, x] = part[start - z.start : stop - z.start]
                    self._write_planes(channel, start, block)

    def finish(self) -> None:
        """Pack the numbers, read the file back and give it its name.

        Raises:
            StorageError: the disk is full, or the file does not hold the numbers.
        """
        write_atomically(self.path, self._pack)
        self.close()

    def close(self) -> None:
        """Remove the raw file."""
        self._scratch.unlink(missing_ok=True)

    def _fill(self, channel: int) -> None:
        for start in range(0, self.shape[1], self._planes_per_block):
            stop = min(start + self._planes_per_block, self.shape[1])
            self._write_planes(channel, start, np.ones((stop - start, *self.shape[2:]), dtype=_TYPE))

    def _read_planes(self, channel: int, start: int, stop: int, *, is_full: bool) -> npt.NDArray[np.float32]:
        shape = (stop - start, *self.shape[2:])
        if is_full:
            return np.empty(shape, dtype=_TYPE)
        with self._scratch.open("rb") as stream:
            stream.seek(self._locate(channel, start))
            data = bytearray(stream.read(shape[0] * self._plane_bytes))
        return np.frombuffer(data, dtype=_TYPE).reshape(shape)

    def _write_planes(self, channel: int, start: int, block: npt.NDArray[np.float32]) -> None:
        with self._scratch.open("r+b") as stream:
            stream.seek(self._locate(channel, start))
            stream.write(np.ascontiguousarray(block, dtype=_TYPE).data)

    def _locate(self, channel: int, plane: int) -> int:
        return (channel * self.shape[1] + plane) * self._plane_bytes

    def _pack(self, temporary: Path) -> None:
        checksum = 0
        with (
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION_LEVEL) as archive,
            archive.open(_MEMBER, "w", force_zip64=True) as member,
        ):
            header = {"descr": _TYPE.str, "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(member, header)
            for block in _read_blocks(self._scratch):
                member.write(block)
                checksum = zlib.crc32(block, checksum)
        _verify(temporary, self.shape, checksum)


def _is_full(y: slice, x: slice, shape: tuple[int, ...]) -> bool:
    return (y.start, y.stop, x.start, x.stop) == (0, shape[2], 0, shape[3])


def _read_blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block


def _verify(path: Path, shape: tuple[int, ...], expected: int) -> None:
    """Compare what is on the disk with what was packed."""
    checksum, num_bytes = 0, 0
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_MEMBER) as member:
            np.lib.format.read_magic(member)
            found = np.lib.format.read_array_header_1_0(member)
            while block := member.read(_BLOCK):
                checksum = zlib.crc32(block, checksum)
                num_bytes += len(block)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError) as error:
        raise unproven(path, str(error)) from error
    is_whole = num_bytes == math.prod(shape) * _TYPE.itemsize
    if found != (shape, False, _TYPE) or checksum != expected or not is_whole:
        raise unproven(path, "the numbers differ")
