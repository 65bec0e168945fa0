"""Cells whose corners do not agree: interpolate what can win there, and paint the winner."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch

from stu_pipeline.inference.candidates import Candidates, Corners, NetworkPlane
from stu_pipeline.inference.case_grid import Decision
from stu_pipeline.inference.corners import AxisCells


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """All cells between two planes of the network grid."""

    axes: list[AxisCells]
    axis: int
    """The walk axis."""
    index: int
    """Of the cell along the walk axis."""
    planes: tuple[NetworkPlane, NetworkPlane]

    @property
    def plane_axes(self) -> tuple[int, int]:
        """The other two axes."""
        first, second = (axis for axis in range(3) if axis != self.axis)
        return first, second

    @property
    def span(self) -> tuple[int, int]:
        """The new planes of the layer."""
        return self.axes[self.axis].spans[self.index]

    def count_cell_voxels(self) -> int:
        """Count the new voxels of the largest cell."""
        first, second = (len(self.axes[axis].outputs) for axis in self.plane_axes)
        return (self.span[1] - self.span[0]) * first * second


class UndecidedCells:
    """Some undecided cells of a layer.

    Args:
        layer: they lie in.
        cells: positions among all cells of the layer, `(p, q)` flattened.
    """

    def __init__(self, layer: Layer, cells: torch.Tensor) -> None:
        self.layer = layer
        columns = len(layer.axes[layer.plane_axes[1]].lower)
        self.p, self.q = cells // columns, cells % columns

    def list_corners(self) -> Corners:
        """List the corners of all cells."""
        return self._list_corners(self.p, self.q)

    def paint(self, painted: torch.Tensor, candidates: Candidates, decision: Decision, values: torch.Tensor) -> None:
        """Write the values of the new voxels of cells into the layer `(planes, p, q)`.

        Args:
            painted: the layer, contiguous.
            candidates: of the cells that are painted.
            decision: softmax or regions.
            values: of the mask, by code.
        """
        if not len(candidates.cells):
            return
        p, q = self.p[candidates.cells], self.q[candidates.cells]
        codes = self._decide(p, q, candidates, has_regions=decision.region_values is not None)
        position = self._find_positions(p, q, painted)
        painted.view(-1)[position.view(-1)] = values[codes.view(-1).long()]

    def _list_corners(self, p: torch.Tensor, q: torch.Tensor) -> Corners:
        first, second = self.layer.plane_axes
        rows, columns = self.layer.axes[first], self.layer.axes[second]
        row_sides, column_sides = (rows.lower[p], rows.upper[p]), (columns.lower[q], columns.upper[q])
        return [
            (self.layer.planes[side[self.layer.axis]], row_sides[side[first]], column_sides[side[second]])
            for side in product((0, 1), repeat=3)
        ]

    def _decide(self, p: torch.Tensor, q: torch.Tensor, candidates: Candidates, *, has_regions: bool) -> torch.Tensor:
        """Return the winning codes, int16 `(z, y, x, cells)` with the new voxels of each cell."""
        corners = self._list_corners(p, q)
        weights = self._find_weights(p, q)

        def interpolate(rank: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
            channel = candidates.channels[candidates.starts[:count] + rank]
            scores = torch.stack([plane.take(channel, row[:count], column[:count]) for plane, row, column in corners])
            return channel, _interpolate(scores, [(low[:, :count], high[:, :count]) for low, high in weights])

        shape = [len(low) for low, _ in weights]
        num_cells = candidates.num_cells
        if has_regions:
            codes = candidates.base.expand(*shape, -1).clone()
            best = torch.zeros(codes.shape, device=codes.device)
        else:
            # A cell with one candidate is decided without its scores.
            codes = candidates.channels[candidates.starts].to(torch.int16).expand(*shape, -1).clone()
            best = interpolate(0, num_cells[1])[1] if len(num_cells) > 1 else torch.empty(0)
        for rank in range(0 if has_regions else 1, len(num_cells)):
            count = num_cells[rank]
            channel, scores = interpolate(rank, count)
            before, reached = codes[..., :count], best[..., :count]
            # Channels ascend, so that a tie stays with the lower one; regions are painted one over the other.
            before[...] = torch.where(scores > reached, (channel + has_regions).to(torch.int16), before)
            if not has_regions:
                torch.maximum(reached, scores, out=reached)
        return codes

    def _find_weights(self, p: torch.Tensor, q: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the weights of both corners along each axis, `(new voxels of a cell, cells)` or `(new voxels, 1)`."""
        lower = self._cut([axis.lower_weight for axis in self.layer.axes], p, q)
        return list(zip(lower, self._cut([axis.upper_weight for axis in self.layer.axes], p, q), strict=True))

    def _find_positions(self, p: torch.Tensor, q: torch.Tensor, painted: torch.Tensor) -> torch.Tensor:
        """Return where the new voxels of each cell lie in the flat layer, `(z, y, x, cells)`."""
        outputs = self._cut([axis.outputs for axis in self.layer.axes], p, q)
        outputs[self.layer.axis] = outputs[self.layer.axis] - self.layer.span[0]
        for axis, stride in zip((self.layer.axis, *self.layer.plane_axes), painted.stride(), strict=True):
            outputs[axis] = outputs[axis] * stride
        z, y, x = outputs
        return z[:, None, None] + y[None, :, None] + x[None, None, :]

    def _cut(self, tables: list[torch.Tensor], p: torch.Tensor, q: torch.Tensor) -> list[torch.Tensor]:
        """Return the columns of the tables of all axes that belong to cells."""
        first, second = self.layer.plane_axes
        start, stop = self.layer.span
        # Along the walk axis all cells are alike: one column, without the rows that repeat the last new plane.
        walk = tables[self.layer.axis][: stop - start, self.layer.index, None]
        cut = {self.layer.axis: walk, first: tables[first][:, p], second: tables[second][:, q]}
        return [cut[axis] for axis in range(3)]


def _interpolate(corners: torch.Tensor, weights: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Interpolate scores `(8, cells)` of corners in the order `(z, y, x)` to `(z, y, x, cells)` new voxels.

    A product, a product and a sum, each rounded: no fused operation, whose result would depend on the machine.
    """
    (z_low, z_high), (y_low, y_high), (x_low, x_high) = weights
    grid = corners.view(2, 2, 2, 1, -1)
    rows = grid[:, :, 0] * x_low + grid[:, :, 1] * x_high
    planes = rows[:, 0, None] * y_low[:, None] + rows[:, 1, None] * y_high[:, None]
    return planes[0] * z_low[:, None, None] + planes[1] * z_high[:, None, None]
