"""Cut a case to the box around its nonzero voxels, and tell which voxels in the box lie outside the object.

Outside is what is zero in every channel and connected to the border: holes inside the object belong to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True, eq=False)
class NonzeroRegion:
    """The box `(start, stop)` per axis, and the mask of the object within it (None: the whole box)."""

    box: Box
    inside: Mask | None

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as slices of a `(z, y, x)` array."""
        z, y, x = (slice(start, stop) for start, stop in self.box)
        return z, y, x


def find_nonzero_region(image: npt.NDArray[np.generic]) -> NonzeroRegion:
    """Find the nonzero region of an image `(c, z, y, x)`; an image of zeros keeps its full box, all outside."""
    mask = image[0] != 0
    for channel in image[1:]:
        if mask.all():
            break
        mask |= channel != 0
    box = _find_box(mask)
    inside = mask[tuple(slice(start, stop) for start, stop in box)]
    return NonzeroRegion(box=box, inside=None if inside.all() else _fill_holes(inside))


def _find_box(mask: Mask) -> Box:
    return _find_range(mask, (1, 2)), _find_range(mask, (0, 2)), _find_range(mask, (0, 1))


def _find_range(mask: Mask, others: tuple[int, int]) -> tuple[int, int]:
    """Return the used range of the axis that is not among `others`, all of it when nothing is set."""
    line = np.any(mask, axis=others)
    used = np.flatnonzero(line)
    return (int(used[0]), int(used[-1]) + 1) if used.size else (0, line.size)


def _fill_holes(mask: Mask) -> Mask:
    """Fill what is false and not connected (through faces) to the border of the box.

    Beyond the box everything is zero, so its border is as good as that of the volume.
    """
    from scipy import ndimage  # late: it takes 0.2 s, and most CT cases need no filling

    background, count = ndimage.label(~mask)
    is_open = np.zeros(count + 1, dtype=bool)
    for axis in range(mask.ndim):
        faces = np.moveaxis(background, axis, 0)
        is_open[faces[0]] = True
        is_open[faces[-1]] = True
    is_open[0] = False  # the object itself
    filled = np.empty_like(mask)
    for plane, out in zip(background, filled, strict=True):  # a plane at a time: indexing widens to 64 bit
        np.logical_not(is_open[plane], out=out)
    return filled
