"""What a header promises about the voxels of a file, and the voxels themselves once the promise is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.formats.payload import Packing, read_payload
from stu_pipeline.datasets.volume import FLAT_SPACING_FACTOR, IDENTITY, MAX_VOXELS, Grid
from stu_pipeline.errors import DataError

NUM_SPATIAL = 3
FLAT = 2
# As ITK decides it: a slope this small means "not set".
_SMALLEST_SLOPE = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One volume as it lies in a file.

    `payload_start` is its first byte in the file, `voxels_start` the first voxel's byte in the unpacked payload.
    """

    grid: Grid
    dtype: np.dtype[np.generic]
    packing: Packing
    payload_start: int
    voxels_start: int = 0
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def num_bytes(self) -> int:
        """Exact length of the unpacked payload."""
        return self.voxels_start + math.prod(self.grid.shape) * self.dtype.itemsize

    @property
    def is_scaled(self) -> bool:
        """Whether the values are `slope * stored + intercept`."""
        return abs(self.slope - 1) > _SMALLEST_SLOPE or abs(self.intercept) > _SMALLEST_SLOPE


def read_stored_voxels(stored: Stored, stream: IO[bytes]) -> npt.NDArray[np.generic]:
    """Read `(z, y, x)` voxels, verified, in the machine's byte order, scaled to float32 when the header says so.

    Raises:
        DataError: cut, damaged, or longer or shorter than the header says.
        MemoryLimitError: they do not fit the memory.
    """
    data = read_payload(
        stream,
        stored.grid.path,
        start=stored.payload_start,
        packing=stored.packing,
        num_bytes=stored.num_bytes,
    )
    voxels = data[stored.voxels_start :].view(stored.dtype).reshape(stored.grid.shape)
    native = voxels.astype(stored.dtype.newbyteorder("="), copy=False)
    return _scale(native, stored.slope, stored.intercept) if stored.is_scaled else native


def require_one_volume(sizes: list[int], path: Path) -> tuple[int, tuple[int, int, int]]:
    """Return the number of dimensions (2 or 3) and `(z, y, x)` of sizes in file order, the fastest axis first.

    Further dimensions of one entry are dropped.

    Raises:
        DataError: no size at all, several volumes, or more voxels than the limit.
    """
    if any(size < 1 for size in sizes):
        raise DataError(f"'{path.name}' says it has dimensions {sizes}", where=path.parent, hint="export it again")
    if len(sizes) < FLAT:
        raise DataError(
            f"'{path.name}' has one dimension, expected two or three", where=path.parent, hint="export it again"
        )
    num_volumes = math.prod(sizes[NUM_SPATIAL:])
    if num_volumes > 1:
        raise DataError(
            f"'{path.name}' is {len(sizes)}D and holds {num_volumes} volumes of {'x'.join(map(str, sizes[:3]))}, "
            "expected one",
            where=path.parent,
            hint="split it into one file per channel: _0000, _0001, ... (or one case per time point)",
        )
    x, y, z = (*sizes[:NUM_SPATIAL], 1)[:NUM_SPATIAL]
    if x * y * z > MAX_VOXELS:
        raise DataError(
            f"'{path.name}' says it has {x}x{y}x{z} voxels, the limit is {MAX_VOXELS}",
            where=path.parent,
            hint="crop or resample the image",
        )
    return min(len(sizes), NUM_SPATIAL), (z, y, x)


def require_one_number(num_components: int, path: Path) -> None:
    """Refuse RGB, vectors and whatever else has several numbers per voxel.

    Raises:
        DataError: with the remedy.
    """
    if num_components != 1:
        raise DataError(
            f"'{path.name}' has {num_components} numbers per voxel, expected one",
            where=path.parent,
            hint="save one file per component: _0000, _0001, ..., or a grey-value image",
        )


def make_grid(
    path: Path,
    shape: tuple[int, int, int],
    *,
    spacing_xyz: list[float],
    origin_xyz: list[float],
    direction: npt.NDArray[np.float64],
    notes: tuple[str, ...] = (),
) -> Grid:
    """Put a grid together. A flat image (two spacings) gets the stand-in third spacing that nnU-Net uses."""
    spacing, origin, flat = list(spacing_xyz), list(origin_xyz), len(spacing_xyz) == FLAT
    cosines = tuple(float(value) for value in direction.ravel())
    if flat:
        spacing.append(max(spacing) * FLAT_SPACING_FACTOR)
        origin.append(0.0)
        cosines = (*cosines[:2], 0.0, *cosines[2:], 0.0, *IDENTITY[6:])
    return Grid(
        shape=shape,
        spacing_mm=(spacing[2], spacing[1], spacing[0]),
        origin=(origin[0], origin[1], origin[2]),
        direction=cosines,
        num_dimensions=FLAT if flat else NUM_SPATIAL,
        path=path,
        notes=notes,
    )


def _scale(voxels: npt.NDArray[np.generic], slope: float, intercept: float) -> npt.NDArray[np.float32]:
    # Slice by slice, and whole numbers through single precision: that is how ITK gets its values.
    scaled = np.empty(voxels.shape, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite results are reported by the caller
        for index, part in enumerate(voxels):
            exact = part if part.dtype.kind == "f" else part.astype(np.float32)
            scaled[index] = exact.astype(np.float64) * slope + intercept
    return scaled
