"""TIFF files: what they say of themselves is checked before anything is decoded, and complaints are errors.

Reads: `.tif`, `.tiff`.
"""

from __future__ import annotations

import contextlib
import logging
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.formats.payload import damaged, require_plausible_size

_UNCOMPRESSED = 1
# What tifffile raises on damaged files beside its own error.
_PARSER_ERRORS = (struct.error, ArithmeticError, AssertionError, AttributeError, EOFError, zlib.error)


def read_tiff_layout(path: Path) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Return shape and type of the pixels without decoding them.

    Raises:
        ValueError: the file cannot be read.
        DataError: it promises more than it can hold.
    """
    with _open(path) as file:
        return _require_plausible(file, path)


def read_tiff(path: Path) -> npt.NDArray[np.generic]:
    """Read all pixels of a TIFF.

    Raises:
        ValueError: the file cannot be read.
        DataError: it promises more than it can hold.
    """
    with _open(path) as file:
        _require_plausible(file, path)
        return np.asarray(file.asarray(maxworkers=1))  # the pool is the parallelism


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a TIFF; what tifffile only logs (pages that are not there, tags that fail) is an error for us."""
    import tifffile

    complaints: list[str] = []
    listener = logging.Handler(level=logging.WARNING)
    listener.emit = lambda record: complaints.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("tifffile")
    logger.addHandler(listener)
    try:
        with tifffile.TiffFile(path) as file:
            yield file
    except (tifffile.TiffFileError, *_PARSER_ERRORS) as error:
        raise ValueError(str(error)) from error
    finally:
        logger.removeHandler(listener)
    if complaints:
        raise ValueError(complaints[0])


def _require_plausible(file: Any, path: Path) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    if not file.series:
        raise ValueError("it holds no image")
    series = file.series[0]
    size, shape = path.stat().st_size, tuple(int(number) for number in series.shape)
    dtype: np.dtype[np.generic] = np.dtype(series.dtype)
    num_bytes = int(np.prod([*shape, dtype.itemsize], dtype=object))
    if series.keyframe.compression == _UNCOMPRESSED and num_bytes > size:
        raise damaged(path, f"has {size} bytes, which cannot hold the {num_bytes} its header says")
    require_plausible_size(path, packed=size, unpacked=num_bytes)
    return shape, dtype
