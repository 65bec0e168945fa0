"""Pictures and TIFF stacks, read as nnU-Net reads them.

Reads: `.png`, `.bmp`, `.tif`, `.tiff`, and the `.json` beside a TIFF stack that holds its spacing.
"""

from __future__ import annotations

import logging
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.endings import TIFF_ENDINGS, split_ending
from stu_pipeline.datasets.volume import FLAT_SPACING_FACTOR, Grid, Spacing
from stu_pipeline.errors import DataError
from stu_pipeline.storage import read_json

_COLOURS = (3, 4)
_FLAT = 2
_STACK = 3
_PICTURE_SPACING = (FLAT_SPACING_FACTOR, 1.0, 1.0)
_CHANNEL_SUFFIX = re.compile(r"_\d{4}\Z")


def read_picture(path: Path) -> tuple[Grid, npt.NDArray[np.generic]]:
    """Read a picture or a TIFF stack as `(c, z, y, x)`.

    A flat grey picture is `(1, 1, y, x)`, a colour picture `(3 or 4, 1, y, x)`, both with spacing
    `(999, 1, 1)`; a TIFF stack is `(1, z, y, x)` with the spacing of its `.json`, else 1 mm.

    Raises:
        DataError: unreadable, cut, or of a shape that is neither picture nor stack.
    """
    array = _read_pixels(path)
    is_tiff = split_ending(path.name)[1].lower() in TIFF_ENDINGS
    if array.ndim == _FLAT:
        voxels, spacing, num_dimensions = array[None, None], _PICTURE_SPACING, _FLAT
    elif array.ndim == _STACK and array.shape[-1] in _COLOURS:
        voxels, spacing, num_dimensions = array.transpose(2, 0, 1)[:, None], _PICTURE_SPACING, _FLAT
    elif array.ndim == _STACK and is_tiff:
        voxels, spacing, num_dimensions = array[None], _read_stack_spacing(path), _STACK
    else:
        raise DataError(
            f"'{path.name}' has shape {array.shape}, expected a grey or colour picture{' or a stack' * is_tiff}",
            where=path.parent,
            hint="save one file per case and channel",
        )
    if voxels.dtype == bool:
        voxels = voxels.astype(np.uint8)
    if voxels.dtype.kind not in "iuf":
        raise DataError(f"'{path.name}' stores voxels as {voxels.dtype}, which is not supported", where=path.parent)
    channels, z, y, x = (int(size) for size in voxels.shape)
    grid = Grid(shape=(z, y, x), spacing_mm=spacing, num_dimensions=num_dimensions, num_channels=channels, path=path)
    return grid, voxels


def _read_pixels(path: Path) -> npt.NDArray[np.generic]:
    try:
        if split_ending(path.name)[1].lower() in TIFF_ENDINGS:
            return _read_tiff(path)
        import imageio.v3

        return np.asarray(imageio.v3.imread(path))
    # The picture libraries raise whatever their parsers meet; these are the kinds seen on damaged files.
    except (OSError, ValueError, TypeError, KeyError, IndexError, SyntaxError, RuntimeError, MemoryError) as error:
        raise DataError(
            f"'{path.name}' cannot be read: {str(error)[:200] or type(error).__name__}",
            where=path.parent,
            hint="export the image again",
        ) from error


def _read_tiff(path: Path) -> npt.NDArray[np.generic]:
    """Read a TIFF; what tifffile only logs (pages that are not there, tags that fail) is an error for us."""
    import tifffile

    complaints: list[str] = []
    listener = logging.Handler(level=logging.WARNING)
    listener.emit = lambda record: complaints.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("tifffile")
    logger.addHandler(listener)
    try:
        array = np.asarray(tifffile.imread(path))
    except (tifffile.TiffFileError, struct.error, ArithmeticError, AttributeError, zlib.error) as error:
        raise ValueError(str(error)) from error
    finally:
        logger.removeHandler(listener)
    if complaints:
        raise ValueError(complaints[0])
    return array


def _read_stack_spacing(path: Path) -> Spacing:
    stem = _CHANNEL_SUFFIX.sub("", split_ending(path.name)[0])
    side_file = path.with_name(f"{stem}.json")
    if not side_file.is_file():
        return (1.0, 1.0, 1.0)
    content = read_json(side_file)
    spacing = content.get("spacing") if isinstance(content, dict) else None
    if (
        not isinstance(spacing, list)
        or len(spacing) != _STACK
        or not all(isinstance(value, int | float) and math.isfinite(value) and value > 0 for value in spacing)
    ):
        raise DataError(
            f"'{side_file.name}' has no valid spacing, found {spacing!r}",
            where=side_file.parent,
            hint='write {"spacing": [z, y, x]} in mm into it',
        )
    return (float(spacing[0]), float(spacing[1]), float(spacing[2]))
