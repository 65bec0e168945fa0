"""A volume in memory, its grid, and when two grids are the same.

Arrays are `(c, z, y, x)` for images and `(z, y, x)` for label maps; spacing is `(z, y, x)` in mm.
Origin and direction are kept as SimpleITK states them, `(x, y, z)` and nine cosines row by row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stu_pipeline.errors import DataError

# Sizes beyond this are refused from the header alone, before any memory is taken.
MAX_VOXELS = 2**31
MIN_SPACING_MM = 0.01
MAX_SPACING_MM = 50.0
# A flat image has no third spacing. nnU-Net multiplies the larger in-plane spacing by 999, or says 999 for pictures.
FLAT_SPACING_FACTOR = 999.0
ORIGIN_TOLERANCE_VOXELS = 0.1
DIRECTION_TOLERANCE_RAD = 1e-3
SPACING_TOLERANCE = 1e-3
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

Spacing = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the voxels of a file lie: its header without the voxels.

    `num_dimensions` is 2 for files that hold one flat image; shape and spacing have three entries all the
    same, the first being 1 voxel and the stand-in spacing nnU-Net uses. `notes` says what reading repaired or
    had to choose, one sentence each without the file name; it plays no part in comparisons.
    """

    shape: tuple[int, int, int]
    spacing_mm: Spacing
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = IDENTITY
    num_dimensions: int = 3
    num_channels: int = 1
    path: Path = field(default_factory=Path, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What was repaired while reading the header."""

    @property
    def num_voxels(self) -> int:
        """Voxels of one channel."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """An image `(c, z, y, x)` float32, or a label map `(z, y, x)` uint8 or uint16, with its grid."""

    array: npt.NDArray[np.generic]
    grid: Grid

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along `(z, y, x)`."""
        return self.grid.shape

    @property
    def spacing_mm(self) -> Spacing:
        """Spacing `(z, y, x)` in mm."""
        return self.grid.spacing_mm

    @property
    def origin(self) -> tuple[float, float, float]:
        """Position `(x, y, z)` of the first voxel in mm, as SimpleITK states it."""
        return self.grid.origin

    @property
    def direction(self) -> tuple[float, ...]:
        """Nine direction cosines, row by row, as SimpleITK states them."""
        return self.grid.direction

    @property
    def path(self) -> Path:
        """The file (the first one of several channels)."""
        return self.grid.path


def check_same_grid(first: Grid | Volume, second: Grid | Volume) -> list[str]:
    """Compare two grids; return one sentence per difference, none when they agree.

    Tolerances: spacing 1e-3 relative, origin 0.1 voxel, direction 1e-3 rad. With unequal shapes nothing
    else is compared.
    """
    a, b = _grid_of(first), _grid_of(second)
    if a.shape != b.shape:
        return [f"shape {_show(b.shape)} differs from {_show(a.shape)} (z, y, x)"]
    problems = []
    if any(
        abs(p - q) > SPACING_TOLERANCE * max(abs(p), abs(q)) for p, q in zip(a.spacing_mm, b.spacing_mm, strict=True)
    ):
        problems.append(f"spacing {_show(b.spacing_mm)} differs from {_show(a.spacing_mm)} mm (z, y, x)")
    # In voxels of the first grid: a shift of the origin, measured along its own axes.
    shift = np.array(b.origin) - np.array(a.origin)
    voxels = (np.array(a.direction).reshape(3, 3).T @ shift) / np.array(a.spacing_mm[::-1])
    if float(np.abs(voxels).max()) > ORIGIN_TOLERANCE_VOXELS:
        problems.append(
            f"origin {_show(b.origin)} differs from {_show(a.origin)} mm (x, y, z), "
            f"{float(np.abs(voxels).max()):.3g} voxels"
        )
    angle = _widest_angle_rad(a.direction, b.direction)
    if angle > DIRECTION_TOLERANCE_RAD:
        problems.append(f"direction differs by {angle:.3g} rad ({math.degrees(angle):.3g} degrees)")
    return problems


def require_sane_grid(grid: Grid) -> None:
    """Refuse a header that cannot be true: too many voxels, a spacing that is no spacing, a lost position.

    Raises:
        DataError: naming the file and the number.
    """
    name = grid.path.name
    if min(grid.shape) < 1 or grid.num_voxels * grid.num_channels > MAX_VOXELS:
        raise DataError(
            f"'{name}' says it has {_show(grid.shape)} voxels and {grid.num_channels} channel(s), "
            f"the limit is {MAX_VOXELS} voxels",
            where=grid.path.parent,
            hint="crop or resample the image",
        )
    spacing = grid.spacing_mm[1:] if grid.num_dimensions == 2 else grid.spacing_mm
    if not all(MIN_SPACING_MM <= value <= MAX_SPACING_MM for value in spacing):
        raise DataError(
            f"'{name}' has a spacing of {_show(spacing)} mm, expected {MIN_SPACING_MM} to {MAX_SPACING_MM:g} mm",
            where=grid.path.parent,
            hint="correct the voxel size in the header",
        )
    if not all(math.isfinite(value) for value in (*grid.origin, *grid.direction)):
        raise DataError(
            f"'{name}' has no valid position: its origin or direction is not finite",
            where=grid.path.parent,
            hint="correct the orientation in the header",
        )


def _grid_of(item: Grid | Volume) -> Grid:
    return item.grid if isinstance(item, Volume) else item


def _widest_angle_rad(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    a, b = np.array(first).reshape(3, 3), np.array(second).reshape(3, 3)
    # The sine of half the angle: exact for tiny angles, where the arc cosine of a dot product is not.
    half = np.linalg.norm(a - b, axis=0) / 2
    return float(2 * np.arcsin(np.clip(half, 0, 1)).max())


def _show(values: tuple[float, ...]) -> str:
    return "x".join(str(value) for value in values) if _all_whole(values) else ", ".join(f"{v:.6g}" for v in values)


def _all_whole(values: tuple[float, ...]) -> bool:
    return all(isinstance(value, int) for value in values)
