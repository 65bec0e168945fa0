"""The `properties` that nnU-Net's image readers hand on, built from the grid of a verified file.

nnU-Net stores them with the preprocessed case and writes masks with the geometry in them.
Imports nothing of nnU-Net: this runs in worker processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from stu_pipeline.datasets.volume import Grid

_FLAT = 2


def make_reader_properties(grid: Grid, reader: str) -> dict[str, Any]:
    """Return the properties of a case as the reader class named in a plan would.

    Args:
        grid: of the first channel; its path leads to the file.
        reader: nnU-Net's name, one of `READERS`.
    """
    return READERS[reader](grid)


def _describe_simpleitk(grid: Grid) -> dict[str, Any]:
    count = _FLAT if grid.num_dimensions == _FLAT else 3
    cosines = np.array(grid.direction).reshape(3, 3)[:count, :count]
    return {
        "sitk_stuff": {
            "spacing": tuple(float(step) for step in grid.spacing_mm[::-1][:count]),
            "origin": tuple(float(position) for position in grid.origin[:count]),
            "direction": tuple(float(cosine) for cosine in cosines.ravel()),
        },
        "spacing": [float(step) for step in grid.spacing_mm],
    }


def _describe_nibabel(grid: Grid) -> dict[str, Any]:
    if grid.path.is_dir():  # DICOM slices, which nibabel would not read
        return {
            "nibabel_stuff": {"original_affine": _build_affine(grid)},
            "spacing": [float(step) for step in grid.spacing_mm],
        }
    import nibabel

    image: Any = nibabel.load(grid.path)  # type: ignore[attr-defined, unused-ignore]
    return {
        "nibabel_stuff": {"original_affine": np.array(image.affine, dtype=np.float64)},
        "spacing": [float(step) for step in image.header.get_zooms()[2::-1]],
    }


def _build_affine(grid: Grid) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the affine `(4, 4)` as nibabel states it: x to the right, y to the front."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(grid.direction).reshape(3, 3) * np.array(grid.spacing_mm[::-1])
    affine[:3, 3] = grid.origin
    affine[:2] *= -1
    return affine


def _describe_tiff(grid: Grid) -> dict[str, Any]:
    return {"spacing": [float(step) for step in grid.spacing_mm]}


def _describe_picture(_grid: Grid) -> dict[str, Any]:
    return {"spacing": (999, 1, 1)}


READERS: Mapping[str, Callable[[Grid], dict[str, Any]]] = {
    "SimpleITKIO": _describe_simpleitk,
    "NibabelIO": _describe_nibabel,
    "Tiff3DIO": _describe_tiff,
    "NaturalImage2DIO": _describe_picture,
}
"""The readers whose voxels and geometry equal ours. Those that reorient are not among them."""
