"""One binary file per label, for tools that show or count one structure at a time.

Writes: `<folder>/<label>.nii.gz`, each read back before it gets its name.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.dataset_fields import BACKGROUND, IGNORE, Label, values_of
from stu_pipeline.datasets.reading import Grid, check_same_grid, read_label_map
from stu_pipeline.errors import DataError, StorageError
from stu_pipeline.storage import measure_free_gib, write_atomically

ENDING = ".nii.gz"
_FLAT = 2
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_MAX_NAME = 100
# Names that Windows keeps for devices, whatever their ending.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?\Z", re.IGNORECASE)
# Binary masks shrink well at any level; this one is the fastest.
_COMPRESSION_LEVEL = 1


def write_label_files(
    mask: npt.NDArray[Any], grid: Grid, labels: Mapping[str, Label], folder: Path
) -> tuple[Path, ...]:
    """Write one file per label, 1 where the mask has it and 0 elsewhere; also for labels that do not occur.

    Args:
        mask: label values `(z, y, x)`.
        grid: of the image.
        labels: name to value as the mask holds it, or to the values of a region. Background and ignore are left out.
        folder: made when missing.

    Returns:
        The files, in the order of the labels.

    Raises:
        StorageError: a file cannot be written, or does not hold what was written.
    """
    names = name_label_files(labels)
    for name, file in names.items():
        values = values_of(labels[name])
        part = (mask == values[0] if len(values) == 1 else np.isin(mask, values)).astype(np.uint8)
        write_atomically(folder / file, functools.partial(_write_verified, mask=part, grid=grid), suffix=ENDING)
    return tuple(folder / file for file in names.values())


def name_label_files(labels: Mapping[str, Label]) -> dict[str, str]:
    """Name the file of every label but background and ignore: safe on any system, and never two alike.

    >>> name_label_files({"background": 0, "left kidney": 1, "Left/Kidney": 2, "nul": 3})
    {'left kidney': 'left_kidney.nii.gz', 'Left/Kidney': 'Left_Kidney_2.nii.gz', 'nul': 'nul_.nii.gz'}
    """
    taken: set[str] = set()
    files = {}
    for name, label in labels.items():
        values = values_of(label)
        if name in (BACKGROUND, IGNORE) or values == (0,):
            continue
        stem = _UNSAFE.sub("_", name).strip("._-")[:_MAX_NAME] or "label"
        stem = f"{stem}_" if _RESERVED.match(stem) else stem
        if stem.casefold() in taken:
            stem = f"{stem}_{'_'.join(map(str, values))}"
        while stem.casefold() in taken:
            stem += "_"
        taken.add(stem.casefold())
        files[name] = stem + ENDING
    return files


def _write_verified(temporary: Path, mask: npt.NDArray[np.uint8], grid: Grid) -> None:
    import SimpleITK

    try:
        SimpleITK.WriteImage(_make_image(mask, grid), str(temporary), True, _COMPRESSION_LEVEL)
        found = read_label_map(temporary)
        theirs = found.grid
        if grid.num_dimensions == _FLAT:  # the third spacing is a stand-in that depends on the format
            theirs = replace(theirs, spacing_mm=(grid.spacing_mm[0], *theirs.spacing_mm[1:]))
        problems = check_same_grid(grid, theirs) if np.array_equal(found.array, mask) else ["the voxels differ"]
    except (RuntimeError, DataError) as error:  # SimpleITK, and a file that is not what was written
        problems = [str(error).strip().splitlines()[-1][:200]]
    if problems:
        free = measure_free_gib(temporary.parent)
        raise StorageError(
            f"a label file could not be verified after writing ({free:.2f} GiB free): {problems[0]}",
            where=temporary.parent,
            hint="free some space and run the same command again",
        )


def _make_image(mask: npt.NDArray[np.uint8], grid: Grid) -> Any:
    import SimpleITK

    is_flat = grid.num_dimensions == _FLAT
    count = _FLAT if is_flat else 3
    image = SimpleITK.GetImageFromArray(mask[0] if is_flat else mask)
    image.SetSpacing([float(step) for step in grid.spacing_mm[::-1][:count]])
    image.SetOrigin([float(position) for position in grid.origin[:count]])
    image.SetDirection([float(v) for v in np.array(grid.direction).reshape(3, 3)[:count, :count].ravel()])
    return image
