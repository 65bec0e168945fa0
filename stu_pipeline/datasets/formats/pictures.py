"""Pictures and TIFF stacks, read as nnU-Net reads them.

Reads: `.png`, `.bmp`, `.tif`, `.tiff`, and the `.json` beside a TIFF stack that holds its spacing.
"""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.endings import TIFF_ENDINGS, split_ending
from stu_pipeline.datasets.formats.payload import require_plausible_size
from stu_pipeline.datasets.formats.tiff import read_tiff, read_tiff_layout
from stu_pipeline.datasets.volume import FLAT_SPACING_FACTOR, MAX_VOXELS, Grid, Spacing, require_sane_grid
from stu_pipeline.errors import DataError
from stu_pipeline.storage import read_json

_COLOURS = (3, 4)
_FLAT = 2
_STACK = 3
_PICTURE_SPACING = (FLAT_SPACING_FACTOR, 1.0, 1.0)
_CHANNEL_SUFFIX = re.compile(r"_\d{4}\Z")


# The picture libraries raise whatever their parsers meet; these are the kinds seen on damaged files.
_PARSER_ERRORS = (OSError, ValueError, TypeError, KeyError, IndexError, SyntaxError, RuntimeError, MemoryError)


def read_picture_grid(path: Path) -> Grid:
    """Read the grid of a picture or a TIFF stack; of a stack without its pixels.

    Raises:
        DataError: as `read_picture`.
    """
    if not _is_tiff(path):
        return read_picture(path)[0]
    try:
        shape, dtype = read_tiff_layout(path)
    except _PARSER_ERRORS as error:
        raise _explain(path, error) from error
    return _make_grid(path, shape, dtype)


def read_picture(path: Path) -> tuple[Grid, npt.NDArray[np.generic]]:
    """Read a picture or a TIFF stack as `(c, z, y, x)`.

    A flat grey picture is `(1, 1, y, x)`, a colour picture `(3 or 4, 1, y, x)`, both with spacing
    `(999, 1, 1)`; a TIFF stack is `(1, z, y, x)` with the spacing of its `.json`, else 1 mm.

    Raises:
        DataError: unreadable, cut, too large, or of a shape that is neither picture nor stack.
    """
    try:
        array = read_tiff(path) if _is_tiff(path) else _read_pixels(path)
    except _PARSER_ERRORS as error:
        raise _explain(path, error) from error
    grid = _make_grid(path, array.shape, array.dtype)
    voxels = array.transpose(2, 0, 1) if grid.num_channels > 1 else array
    voxels = voxels.reshape(grid.num_channels, *grid.shape)
    return grid, voxels.astype(np.uint8) if voxels.dtype == bool else voxels


def _read_pixels(path: Path) -> npt.NDArray[np.generic]:
    import imageio.v3
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limits here are ours
        try:
            with Image.open(path) as picture:
                _require_plausible(path, picture.size, len(picture.getbands()), getattr(picture, "n_frames", 1))
                picture.verify()  # the checksum of every chunk, which decoding does not look at
        except Image.DecompressionBombError as error:
            raise ValueError(str(error)) from error
        return np.asarray(imageio.v3.imread(path))


def _require_plausible(path: Path, size: tuple[int, int], num_bands: int, num_frames: int) -> None:
    if num_frames != 1:
        raise DataError(
            f"'{path.name}' is an animation of {num_frames} pictures, expected one",
            where=path.parent,
            hint="save one file per case and channel",
        )
    num_pixels = size[0] * size[1]
    if num_pixels > MAX_VOXELS:
        raise DataError(f"'{path.name}' says it has {size[0]}x{size[1]} pixels", where=path.parent, hint="crop it")
    # One bit is the least a pixel takes before compression.
    require_plausible_size(path, packed=path.stat().st_size, unpacked=num_pixels * num_bands // 8)


def _make_grid(path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Grid:
    is_colour = len(shape) == _STACK and shape[-1] in _COLOURS
    if dtype.kind not in "iufb":
        raise DataError(f"'{path.name}' stores voxels as {dtype}, which is not supported", where=path.parent)
    if len(shape) == _FLAT or is_colour:
        sizes, spacing, num_dimensions = (1, *shape[:2]), _PICTURE_SPACING, _FLAT
    elif len(shape) == _STACK and _is_tiff(path):
        sizes, spacing, num_dimensions = shape, _read_stack_spacing(path), _STACK
    else:
        raise DataError(
            f"'{path.name}' has shape {shape}, expected a grey or colour picture{' or a stack' * _is_tiff(path)}",
            where=path.parent,
            hint="save one file per case and channel",
        )
    z, y, x = (int(number) for number in sizes)
    grid = Grid(
        shape=(z, y, x),
        spacing_mm=spacing,
        num_dimensions=num_dimensions,
        num_channels=shape[-1] if is_colour else 1,
        path=path,
    )
    require_sane_grid(grid)
    return grid


def _is_tiff(path: Path) -> bool:
    return split_ending(path.name)[1].lower() in TIFF_ENDINGS


def _explain(path: Path, error: Exception) -> DataError:
    return DataError(
        f"'{path.name}' cannot be read: {str(error)[:200] or type(error).__name__}",
        where=path.parent,
        hint="export the image again",
    )


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
