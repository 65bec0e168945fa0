"""Verified reading of images and label maps: one reader for plan, train, predict and evaluate.

Damage in is an error, never a voxel: a cut or flipped file, NaN, infinite values, labels that are no labels.
Reads: `.nii.gz .nii .nrrd .mha .tif .tiff .png .bmp`, and folders of DICOM slices as images.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.endings import PICTURE_ENDINGS, SUPPORTED_ENDINGS, TIFF_ENDINGS, split_ending
from stu_pipeline.datasets.formats.dicom import read_series, read_series_header
from stu_pipeline.datasets.formats.dicom_files import holds_series
from stu_pipeline.datasets.formats.mha import read_mha_header
from stu_pipeline.datasets.formats.nifti import read_nifti_header
from stu_pipeline.datasets.formats.nrrd import read_nrrd_header
from stu_pipeline.datasets.formats.pictures import read_picture, read_picture_grid
from stu_pipeline.datasets.formats.stored import Stored, read_stored_voxels
from stu_pipeline.datasets.volume import Grid, Volume, check_same_grid, require_sane_grid
from stu_pipeline.errors import DataError

__all__ = ["Grid", "Volume", "check_same_grid", "read_channels", "read_header", "read_image", "read_label_map"]

MAX_LABEL = 65535
# Float32 holds the sum of squares of 2**31 voxels up to 4e14; real intensities end far below this.
MAX_INTENSITY = 1e12
# A label stored as a float may be off by rounding; more than this is not a label.
LABEL_TOLERANCE = 1e-3
_MAX_BYTE = 255
_HEADER_READERS = {
    ".nii.gz": read_nifti_header,
    ".nii": read_nifti_header,
    ".nrrd": read_nrrd_header,
    ".mha": read_mha_header,
}


def read_header(path: Path) -> Grid:
    """Read the grid of a file, or of a folder of DICOM slices, without its voxels. The voxels are not verified.

    Raises:
        DataError: missing, not an image, or of a kind that cannot be used (4D, RGB, complex, sheared).
    """
    if _is_series(path):
        return read_series_header(path)
    ending = _require_file(path)
    if ending in (*PICTURE_ENDINGS, *TIFF_ENDINGS):
        return read_picture_grid(path)
    with path.open("rb") as stream:
        return _read_stored(stream, path, ending).grid


def read_image(path: Path) -> Volume:
    """Read one image file, or a folder of DICOM slices, verified, as float32 `(c, z, y, x)`.

    `c` is 1 but for colour pictures. A flat image has one slice.

    Raises:
        DataError: missing, cut, damaged, of a kind that cannot be used, or with NaN or infinite voxels.
    """
    grid, voxels = read_series(path) if _is_series(path) else _read(path)
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit float32 becomes infinite and is reported
        array = voxels.astype(np.float32, copy=False)
    if voxels.dtype.kind == "f":
        _require_finite(path, array)
        _require_measured(path, array)
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
        del volume  # else two channels lie in memory beside the stack
    notes = tuple(f"'{grid.path.name}': {note}" for grid in grids for note in grid.notes)
    return Volume(array=array, grid=replace(first, num_channels=num_channels, notes=notes))


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
    labels, notes = voxels[0], grid.notes
    if labels.dtype.kind == "f":
        _require_finite(path, labels[None])
        labels, off = _round_labels(path, labels)
        notes += (f"labels are off whole numbers by up to {off:.1e}, rounded",) if off else ()
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
    return Volume(array=np.ascontiguousarray(labels.astype(kind, copy=False)), grid=replace(grid, notes=notes))


def _is_series(path: Path) -> bool:
    return path.is_dir() and holds_series(path)


def _read(path: Path) -> tuple[Grid, npt.NDArray[np.generic]]:
    """Read any supported file: its grid and `(c, z, y, x)` voxels, scaled but not yet converted."""
    ending = _require_file(path)
    if ending in (*PICTURE_ENDINGS, *TIFF_ENDINGS):
        return read_picture(path)
    with path.open("rb") as stream:
        stored = _read_stored(stream, path, ending)
        voxels = read_stored_voxels(stored, stream)
    return stored.grid, voxels[None]


def _read_stored(stream: IO[bytes], path: Path, ending: str) -> Stored:
    stored = _HEADER_READERS[ending](stream, path)
    require_sane_grid(stored.grid)
    return stored


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


def _require_measured(path: Path, array: npt.NDArray[np.float32]) -> None:
    """Refuse values in `(c, z, y, x)` that no scanner makes: squares overflow, and a z-score erases the image."""
    if max(-float(array.min()), float(array.max())) <= MAX_INTENSITY:
        return
    wrong = np.abs(array) > MAX_INTENSITY
    channel = int(np.argmax(wrong.any(axis=(1, 2, 3))))
    raise DataError(
        f"'{path.name}' has {int(wrong.sum())} voxels beyond {MAX_INTENSITY:g}, "
        f"first at {_show_first(wrong[channel])}: {float(array[channel][wrong[channel]][0]):g}",
        where=path.parent,
        hint="replace them with a value of the background, and check scl_slope and scl_inter",
    )


def _require_finite(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Refuse NaN and infinite values in `(c, z, y, x)`, with their number and the first place."""
    # A sum is finite only if every term is; overflow of the sum just sends us to the exact count.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum(dtype=np.float64)):
            return
    wrong = ~np.isfinite(array)
    if not wrong.any():
        return
    channel = int(np.argmax(wrong.any(axis=(1, 2, 3))))
    where = f" of channel {channel}" if len(wrong) > 1 else ""
    raise DataError(
        f"'{path.name}' has {int(wrong.sum())} voxels that are NaN or infinite, "
        f"first at {_show_first(wrong[channel])}{where}: {float(array[channel][wrong[channel]][0]):g}",
        where=path.parent,
        hint="replace them with a value of the background, and check scl_slope and values beyond float32",
    )


def _round_labels(path: Path, labels: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.int64], float]:
    """Round finite labels; return them with the largest distance from a whole number."""
    whole = np.rint(labels)
    distance = np.abs(labels - whole)
    off = float(distance.max())
    if off > LABEL_TOLERANCE:
        wrong = distance > LABEL_TOLERANCE
        raise DataError(
            f"'{path.name}' has {int(wrong.sum())} voxels whose label is not a whole number, "
            f"first {float(labels[wrong][0]):g} at {_show_first(wrong)}",
            where=path.parent,
            hint="save the labels as integers, without interpolation",
        )
    return np.clip(whole, -(2**31), 2**31).astype(np.int64), off


def _show_first(wrong: npt.NDArray[np.bool_]) -> str:
    z, y, x = (int(value) for value in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
    return f"(z, y, x) = ({z}, {y}, {x})"
