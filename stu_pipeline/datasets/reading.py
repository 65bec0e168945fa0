"""Verified reading of images and label maps: one reader for plan, train, predict and evaluate.

Damage in is an error, never a voxel: a cut or flipped file, NaN, infinite values, labels that are no labels.
Reads: `.nii.gz .nii .nrrd .mha .tif .tiff .png .bmp`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.endings import NIFTI_ENDINGS, PICTURE_ENDINGS, SUPPORTED_ENDINGS, TIFF_ENDINGS, split_ending
from stu_pipeline.datasets.itk import read_itk_grid, read_itk_voxels
from stu_pipeline.datasets.nifti import read_nifti_header, read_nifti_voxels, scale_voxels
from stu_pipeline.datasets.payload import require_sound_payload
from stu_pipeline.datasets.pictures import read_picture
from stu_pipeline.datasets.volume import Grid, Volume, check_same_grid, require_sane_grid
from stu_pipeline.errors import DataError

__all__ = ["Grid", "Volume", "check_same_grid", "read_channels", "read_header", "read_image", "read_label_map"]

MAX_LABEL = 65535
# A label stored as a float may be off by rounding; more than this is not a label.
LABEL_TOLERANCE = 1e-3
_MAX_BYTE = 255


def read_header(path: Path) -> Grid:
    """Read the grid of a file without its voxels. The voxels are not verified.

    Raises:
        DataError: missing, not an image, or of a kind that cannot be used (4D, RGB, complex, sheared).
    """
    ending = _require_file(path)
    if ending in NIFTI_ENDINGS:
        read_nifti_header(path)
        grid = read_itk_grid(path)
    elif ending in (*PICTURE_ENDINGS, *TIFF_ENDINGS):
        return read_picture(path)[0]
    else:
        grid = read_itk_grid(path)
    require_sane_grid(grid)
    return grid


def read_image(path: Path) -> Volume:
    """Read one image file, verified, as float32 `(c, z, y, x)`.

    `c` is 1 but for colour pictures. A flat image has one slice.

    Raises:
        DataError: missing, cut, damaged, of a kind that cannot be used, or with NaN or infinite voxels.
    """
    grid, voxels = _read(path)
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite and is reported
        array = voxels.astype(np.float32, copy=False)
    _require_finite(path, array)
    return Volume(array=np.ascontiguousarray(array), grid=grid)


def read_channels(paths: Sequence[Path]) -> Volume:
    """Read the channel files of one case and stack them to float32 `(c, z, y, x)`.

    Raises:
        DataError: as `read_image`, or the channels do not share one grid.
    """
    if len(paths) == 1:
        return read_image(paths[0])
    grids = [read_header(path) for path in paths]
    first = grids[0]
    details = tuple(f"'{grid.path.name}': {problem}" for grid in grids[1:] for problem in check_same_grid(first, grid))
    if details:
        raise DataError(
            f"the channels of '{paths[0].name}' do not share one grid",
            where=paths[0].parent,
            hint="resample them to the grid of the first channel",
            details=details,
        )
    num_channels = sum(grid.num_channels for grid in grids)
    array = np.empty((num_channels, *first.shape), dtype=np.float32)
    start = 0
    for path in paths:
        volume = read_image(path)
        array[start : start + len(volume.array)] = volume.array
        start += len(volume.array)
    return Volume(array=array, grid=replace(first, num_channels=num_channels))


def read_label_map(path: Path) -> Volume:
    """Read a label map, verified, as `(z, y, x)` uint8 (largest label 255) or uint16.

    Labels stored as floats are accepted when they are whole within 1e-3.

    Raises:
        DataError: as `read_image`, or a value that is negative, above 65535 or not whole.
    """
    grid, voxels = _read(path)
    if grid.num_channels != 1:
        raise DataError(
            f"'{path.name}' has {grid.num_channels} channels, expected a label map with one",
            where=path.parent,
            hint="save the labels as a grey-value image",
        )
    labels = voxels[0]
    if labels.dtype.kind == "f":
        labels = _round_labels(path, labels)
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest > MAX_LABEL:
        wrong = (labels < 0) | (labels > MAX_LABEL)
        raise DataError(
            f"'{path.name}' has {int(wrong.sum())} voxels with labels outside 0 to {MAX_LABEL}, "
            f"first {int(labels[wrong][0])} at {_show_first(wrong)}",
            where=path.parent,
            hint="number the labels from 0",
        )
    kind = np.uint8 if highest <= _MAX_BYTE else np.uint16
    return Volume(array=np.ascontiguousarray(labels.astype(kind, copy=False)), grid=grid)


def _read(path: Path) -> tuple[Grid, npt.NDArray[np.generic]]:
    """Read any supported file: its grid and `(c, z, y, x)` voxels, scaled but not yet converted."""
    ending = _require_file(path)
    if ending in NIFTI_ENDINGS:
        header, stored = read_nifti_voxels(path)
        grid = read_itk_grid(path)
        voxels = scale_voxels(header, stored)[None]
    elif ending in (*PICTURE_ENDINGS, *TIFF_ENDINGS):
        return read_picture(path)
    else:
        grid = read_itk_grid(path)
        require_sane_grid(grid)
        require_sound_payload(path, ending)
        voxels = read_itk_voxels(path)[None]
    require_sane_grid(grid)
    if voxels.shape[1:] != grid.shape:
        raise DataError(f"'{path.name}' has {voxels.shape[1:]} voxels, expected {grid.shape}", where=path.parent)
    return grid, voxels


def _require_file(path: Path) -> str:
    """Return the ending of a regular file that can be opened."""
    ending = split_ending(path.name)[1].lower()
    if not ending:
        raise DataError(
            f"'{path.name}' is not an image file, expected one of {' '.join(SUPPORTED_ENDINGS)}", where=path.parent
        )
    if not path.exists():
        raise DataError(f"'{path.name}' not found", where=path.parent, hint="check the path")
    if not path.is_file():  # a named pipe would hang, a folder would confuse
        raise DataError(f"'{path.name}' is not a regular file", where=path.parent)
    if not os.access(path, os.R_OK):
        raise DataError(f"'{path.name}' cannot be read: no permission", where=path.parent)
    if path.stat().st_size == 0:
        raise DataError(f"'{path.name}' is empty", where=path.parent, hint="copy or export the file again")
    return ending


def _require_finite(path: Path, array: npt.NDArray[np.float32]) -> None:
    # A sum is finite only if every term is; overflow of the sum just sends us to the exact count.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum(dtype=np.float64)):
            return
    wrong = ~np.isfinite(array)
    if not wrong.any():
        return
    raise DataError(
        f"'{path.name}' has {int(wrong.sum())} voxels that are NaN or infinite, first at {_show_first(wrong[0])}"
        if wrong[0].any()
        else f"'{path.name}' has {int(wrong.sum())} voxels that are NaN or infinite",
        where=path.parent,
        hint="replace them with a value of the background",
    )


def _round_labels(path: Path, labels: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    values = labels.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(values - np.rint(values)) <= LABEL_TOLERANCE)
    if wrong.any():
        raise DataError(
            f"'{path.name}' has {int(wrong.sum())} voxels whose label is not a whole number, "
            f"first {float(values[wrong][0]):g} at {_show_first(wrong)}",
            where=path.parent,
            hint="save the labels as integers, without interpolation",
        )
    return np.rint(np.clip(values, -(2**31), 2**31)).astype(np.int64)


def _show_first(wrong: npt.NDArray[np.bool_]) -> str:
    z, y, x = (int(value) for value in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
    return f"(z, y, x) = ({z}, {y}, {x})"
