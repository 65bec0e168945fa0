"""The files of one preprocessed case, in nnU-Net's formats.

Writes: `<case>.b2nd` (float32, `(c, z, y, x)`), `<case>_seg.b2nd` (int16, `(1, z, y, x)`), `<case>.pkl`.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.nnunet.preprocessor import case_files
from stu_pipeline.storage import storage_errors

# Half the second-level cache of common processors: a block is unpacked in it.
_BLOCK_BYTES = 128 * 1024
_CHUNK_BYTES = 4 * 1024**2
# For images nnU-Net's codec, read as fast; its level 5 takes 4 times as long for 3 to 10 % less. Label maps are
# half as large with Zstandard, and no slower to read.
_IMAGE_CODEC, _LABEL_CODEC, _LEVEL = "LZ4HC", "ZSTD", 1
_PICKLE_PROTOCOL = 4

Shape4 = tuple[int, int, int, int]


def write_case_files(
    folder: Path,
    case_id: str,
    *,
    image: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int16],
    properties: Mapping[str, Any],
    patch_size: Sequence[int],
) -> tuple[Path, ...]:
    """Write the files of a case, neither synced nor renamed; equal input gives equal bytes.

    Args:
        folder: exists or is made.
        case_id: what the file names start with.
        image: `(c, z, y, x)`.
        labels: `(z, y, x)`.
        properties: what nnU-Net keeps beside the arrays.
        patch_size: 2 or 3 sides of the patches that training will read.

    Raises:
        StorageError: a file could not be written.
    """
    files = case_files(folder, case_id)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _write(files[0], _pack(image, patch_size))
    _write(files[1], _pack(labels[None], patch_size))
    _write(files[2], pickle.dumps(dict(properties), protocol=_PICKLE_PROTOCOL))
    return files


def _write(file: Path, content: bytes) -> None:
    with storage_errors(file):
        file.write_bytes(content)


def choose_chunks(shape: Shape4, patch_size: Sequence[int], item_bytes: int) -> tuple[Shape4, Shape4]:
    """Choose the block and chunk shapes of an array so that patches of a size are read with little waste.

    A block is what is unpacked at once, a chunk what is read at once: both have about the sides of the patch,
    cut into equal parts until they fit 128 KiB and 4 MiB.

    Args:
        shape: `(c, z, y, x)`.
        patch_size: 2 or 3 sides.
        item_bytes: bytes per value.
    """
    patch = (1, *patch_size) if len(patch_size) == 2 else tuple(patch_size)
    target = [min(size, side) for size, side in zip(shape[1:], patch, strict=True)]
    chunk = _cut(target, _CHUNK_BYTES // item_bytes)
    block = _cut(chunk, _BLOCK_BYTES // item_bytes)
    return (1, block[0], block[1], block[2]), (1, chunk[0], chunk[1], chunk[2])


def _cut(sides: list[int], max_items: int) -> list[int]:
    """Cut the longest side into equal parts again and again until the piece is small enough."""
    parts = [1, 1, 1]
    piece = list(sides)
    while math.prod(piece) > max_items:
        longest = max(range(3), key=lambda axis: (piece[axis], -axis))
        parts[longest] += 1
        piece[longest] = math.ceil(sides[longest] / parts[longest])
    return piece


def _pack(array: npt.NDArray[Any], patch_size: Sequence[int]) -> bytes:
    """Pack an array to the bytes of a `.b2nd` file.

    In memory, because blosc2 may leave a short file behind when the disk is full.
    """
    import blosc2  # late: it takes 0.2 s

    num_threads = blosc2.set_nthreads(1)  # the pool is the parallelism
    try:
        blocks, chunks = choose_chunks(array.shape, patch_size, array.itemsize)
        if array.dtype.kind == "f":
            packed = _compress_image(array, blocks, chunks)
        else:
            packed = _compress(array, blocks, chunks, _LABEL_CODEC, blosc2.Filter.SHUFFLE)
        content: bytes = packed.to_cframe()
    finally:
        blosc2.set_nthreads(num_threads)
    return content


def _compress_image(array: npt.NDArray[Any], blocks: Shape4, chunks: Shape4) -> Any:
    """Compress with shuffled bytes, which suits resampled voxels, or without, where few values repeat."""
    import blosc2

    start = [(size - side) // 2 for size, side in zip(array.shape, chunks, strict=True)]
    sample = array[tuple(slice(first, first + side) for first, side in zip(start, chunks, strict=True))]
    trials = {
        kind: _compress(sample, blocks, chunks, _IMAGE_CODEC, kind)
        for kind in (blosc2.Filter.NOFILTER, blosc2.Filter.SHUFFLE)
    }
    best = min(trials, key=lambda kind: int(trials[kind].schunk.cbytes))
    return trials[best] if sample.shape == array.shape else _compress(array, blocks, chunks, _IMAGE_CODEC, best)


def _compress(array: npt.NDArray[Any], blocks: Shape4, chunks: Shape4, codec: str, kind: Any) -> Any:
    import blosc2

    settings = {"codec": blosc2.Codec[codec], "clevel": _LEVEL, "nthreads": 1, "filters": [kind]}
    return blosc2.asarray(np.ascontiguousarray(array), chunks=chunks, blocks=blocks, cparams=settings, contiguous=True)
