"""The planes that tiles still add to: a ring as thick as one tile, whatever the size of the image."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stu_pipeline.inference.slabs import Slab
from stu_pipeline.inference.tiles import Corner, TileGrid

_FLOAT_BYTES = 4


def count_ring_bytes(grid: TileGrid, num_outputs: int) -> int:
    """Count the bytes of a `Ring`: `4 * (outputs + 1) * planes of a tile * voxels of a plane` and one tile's weights.

    A plane is at least as large as the tile. This is exact.
    """
    tile, ring = 1, 1
    for size, thickness in zip(grid.extent, grid.ring_shape, strict=True):
        tile, ring = tile * size, ring * thickness
    return _FLOAT_BYTES * ((num_outputs + 1) * ring + tile)


class Ring:
    """Sums of weighted logits and of weights; plane `p` of the image lies at `p % thickness`.

    Tiles must come in the order of `TileGrid.list_corners`; before a tile is added, `release` up to its first plane.
    Nothing is allocated after the creation, so an operation happens as a whole or not at all.

    Args:
        grid: of the image.
        num_outputs: channels of the logits.
        importance: weight of every voxel of a tile, of `grid.extent`.
        device: where the sums lie.
    """

    def __init__(self, grid: TileGrid, num_outputs: int, importance: torch.Tensor, device: torch.device) -> None:
        self._grid = grid
        self._thickness = grid.extent[grid.axis]
        self._first = 0
        self._sums = torch.zeros((num_outputs, *grid.ring_shape), device=device)
        self._weights = torch.zeros(grid.ring_shape, device=device)
        self._importance = importance.to(device)

    @property
    def device(self) -> torch.device:
        """Where the sums lie."""
        return self._sums.device

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in (self._sums, self._weights, self._importance))

    def move_to(self, device: torch.device) -> None:
        """Take everything to another device."""
        self._sums, self._weights = self._sums.to(device), self._weights.to(device)
        self._importance = self._importance.to(device)

    def add(self, corner: Corner, logits: torch.Tensor, factor: float) -> None:
        """Add `logits * factor` of a tile, `(outputs, *extent)` on this device, with its importance."""
        axis = self._grid.axis
        start = corner[axis]
        for first, last in self._split(start, start + self._thickness):
            inside = [slice(low, low + size) for low, size in zip(corner, self._grid.extent, strict=True)]
            inside[axis] = self._place(first, last)
            part = [slice(None)] * 3
            part[axis] = slice(first - start, last - start)
            importance = self._importance[tuple(part)]
            self._sums[(slice(None), *inside)].addcmul_(logits[(slice(None), *part)], importance, value=factor)
            self._weights[tuple(inside)].add_(importance)

    def release(self, until: int) -> Iterator[Slab]:
        """Yield the planes before `until`, of the padded image, as logits of the image; then they are forgotten.

        The scores of a slab are a view into the ring: they hold until the next one is asked for.
        """
        if until <= self._first:
            return
        axis, low = self._grid.axis, self._grid.low
        image = [slice(start, start + size) for start, size in zip(low, self._grid.image_shape, strict=True)]
        for first, last in self._split(self._first, until):
            planes = [slice(None)] * 3
            planes[axis] = self._place(first, last)
            sums, weights = self._sums[(slice(None), *planes)], self._weights[tuple(planes)]
            sums.div_(weights)
            begin = max(first, low[axis])
            end = min(last, low[axis] + self._grid.image_shape[axis])
            if begin < end:
                inside = [*image]
                inside[axis] = slice(begin - first, end - first)
                yield Slab(start=begin - low[axis], axis=axis, scores=sums[(slice(None), *inside)])
            sums.zero_()
            weights.zero_()
        self._first = until

    def _split(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Cut planes where the ring closes."""
        while start < stop:
            last = min(stop, (start // self._thickness + 1) * self._thickness)
            yield start, last
            start = last

    def _place(self, first: int, last: int) -> slice:
        start = first % self._thickness
        return slice(start, start + last - first)
