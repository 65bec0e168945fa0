"""What SimpleITK tells about a file: its grid, and for NRRD and MetaImage its voxels.

Reads: `.nii.gz`, `.nii` (grid only), `.nrrd`, `.mha`.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813

from stu_pipeline.datasets.volume import FLAT_SPACING_FACTOR, IDENTITY, Grid
from stu_pipeline.errors import DataError

_NUM_SPATIAL = 3
_FLAT = 2


def read_itk_grid(path: Path) -> Grid:
    """Read the grid of a file from its header.

    Raises:
        DataError: unreadable, not orthonormal, 4D, or more than one number per voxel.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK would write to stderr behind our back
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _explain(path, error) from error
    sizes = [int(size) for size in reader.GetSize()]
    spacing = [abs(float(value)) for value in reader.GetSpacing()]
    _require_one_volume(path, sizes, reader.GetNumberOfComponents(), reader.GetPixelIDValue())
    return _make_grid(path, sizes, spacing, reader.GetOrigin(), reader.GetDirection())


def read_itk_voxels(path: Path) -> npt.NDArray[np.generic]:
    """Read the stored voxels of a file as `(z, y, x)`; a flat image gets one slice.

    Raises:
        DataError: unreadable or cut.
    """
    try:
        array: npt.NDArray[np.generic] = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError as error:
        raise _explain(path, error) from error
    while array.ndim > _NUM_SPATIAL:  # only trailing dimensions of one entry get here
        array = array[0]
    return array[None] if array.ndim == _FLAT else array


def _require_one_volume(path: Path, sizes: list[int], num_components: int, pixel_id: int) -> None:
    num_volumes = math.prod(sizes[_NUM_SPATIAL:])
    if pixel_id in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        problem, hint = "holds complex numbers, expected real ones", "save the magnitude"
    elif num_components > 1:
        problem = f"has {num_components} numbers per voxel, expected one"
        hint = "save one file per component: _0000, _0001, ..."
    elif num_volumes > 1:
        problem = f"is {len(sizes)}D and holds {num_volumes} volumes of {'x'.join(map(str, sizes[:3]))}, expected one"
        hint = "split it into one file per volume; channels are named _0000, _0001, ..."
    elif len(sizes) < _FLAT:
        problem, hint = "has one dimension, expected two or three", "export the image again"
    else:
        return
    raise DataError(f"'{path.name}' {problem}", where=path.parent, hint=hint)


def _make_grid(
    path: Path, sizes: list[int], spacing: list[float], origin: tuple[float, ...], direction: tuple[float, ...]
) -> Grid:
    count = len(sizes)
    if count == _FLAT:
        return Grid(
            shape=(1, sizes[1], sizes[0]),
            spacing_mm=(max(spacing) * FLAT_SPACING_FACTOR, spacing[1], spacing[0]),
            origin=(float(origin[0]), float(origin[1]), 0.0),
            direction=(direction[0], direction[1], 0.0, direction[2], direction[3], 0.0, *IDENTITY[6:]),
            num_dimensions=_FLAT,
            path=path,
        )
    matrix = np.array(direction).reshape(count, count)[:_NUM_SPATIAL, :_NUM_SPATIAL]
    return Grid(
        shape=(sizes[2], sizes[1], sizes[0]),
        spacing_mm=(spacing[2], spacing[1], spacing[0]),
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=tuple(float(value) for value in matrix.ravel()),
        path=path,
    )


def _explain(path: Path, error: RuntimeError) -> DataError:
    text = str(error)
    if "orthonormal" in text:
        return DataError(
            f"'{path.name}' has axes that are not at right angles to each other (sheared or noisy sform)",
            where=path.parent,
            hint="resample the image to a plain grid, or copy the qform into the sform",
        )
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), text)
    return DataError(f"'{path.name}' cannot be read: {last[:200]}", where=path.parent, hint="export the image again")
