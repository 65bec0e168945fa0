"""Paint a mask from scores on a coarser or finer grid, interpolating only where and what can matter.

Linear interpolation is a weighted mean of 8 corners. Where the corners agree on the winner, the winner is known;
elsewhere only channels whose highest corner reaches the best lowest corner can win, two on average. They are
interpolated exactly as `resampled_slabs` does it: single precision, along x, then y, then z.
"""

from __future__ import annotations

import torch

from stu_pipeline.inference.candidates import CORNER_SCORES_AT_ONCE, NetworkPlane, find_agreement, find_candidates
from stu_pipeline.inference.case_grid import CaseGrid, Decision
from stu_pipeline.inference.corners import find_axis_cells
from stu_pipeline.inference.frequent_pairs import find_pairs
from stu_pipeline.inference.mask_canvas import MaskCanvas, list_code_values
from stu_pipeline.inference.slabs import Slab
from stu_pipeline.inference.undecided_cells import Layer, UndecidedCells
from stu_pipeline.inference.voxel_codes import VoxelCodes, code_voxels

NEW_VOXELS_AT_ONCE = 1 << 17
"""New voxels of the undecided cells that are interpolated together, per candidate."""
CELLS_AT_ONCE = 1 << 15
"""Undecided cells that are looked at together, however few new voxels they have."""


class PrunedPainter:
    """Paints a canvas from slabs of scores on the network grid.

    Args:
        grid: of the case; `is_pruned` holds for it.
        decision: softmax or regions.
        axis: the walk axis.
        canvas: what is painted.
    """

    def __init__(
        self, grid: CaseGrid, decision: Decision, *, axis: int, canvas: MaskCanvas, device: torch.device
    ) -> None:
        self._decision, self._axis, self._canvas = decision, axis, canvas
        self._cells = [find_axis_cells(grid, index, device) for index in range(3)]
        self._plane_axes = tuple(index for index in range(3) if index != axis)
        self._values = list_code_values(decision, device)
        self._kept: tuple[torch.Tensor, VoxelCodes] | None = None
        self._num_cells_done = 0

    def add(self, slab: Slab) -> None:
        """Paint all planes that the slab completes, and keep a copy of its last plane.

        Raises:
            NonFiniteError: a score is NaN or infinite.
        """
        voxels = code_voxels(slab.scores, self._decision)
        planes = {
            slab.start + index: NetworkPlane.of(
                slab.scores.select(1 + self._axis, index), voxels.select(self._axis, index)
            )
            for index in range(slab.stop - slab.start)
        }
        if self._kept is not None:
            planes[slab.start - 1] = NetworkPlane.of(*self._kept)
        corners = self._cells[self._axis].corners
        while self._num_cells_done < len(corners) and corners[self._num_cells_done][1] < slab.stop:
            lower, upper = corners[self._num_cells_done]
            self._canvas.paint(self._paint_layer((planes[lower], planes[upper]), self._num_cells_done))
            self._num_cells_done += 1
        last = slab.stop - slab.start - 1
        self._kept = (
            slab.scores.select(1 + self._axis, last).clone(memory_format=torch.contiguous_format),
            voxels.select(self._axis, last).clone(),
        )

    def _paint_layer(self, planes: tuple[NetworkPlane, NetworkPlane], layer: int) -> torch.Tensor:
        """Return the values of the mask in all new planes of a layer of cells, `(planes, p, q)`."""
        p, q = (self._cells[axis] for axis in self._plane_axes)
        agreed = find_agreement(planes, (p.lower, p.upper), (q.lower, q.upper))
        start, stop = self._cells[self._axis].spans[layer]
        known = self._values[agreed.clamp(min=0).long()]
        plane = known.index_select(0, p.cell_of_output).index_select(1, q.cell_of_output)
        painted = plane.expand(stop - start, *plane.shape).clone(memory_format=torch.contiguous_format)
        undecided = (agreed.view(-1) < 0).nonzero()[:, 0]
        self._paint_undecided(painted, Layer(self._cells, self._axis, layer, planes), undecided)
        return painted

    def _paint_undecided(self, painted: torch.Tensor, layer: Layer, undecided: torch.Tensor) -> None:
        at_once = max(1, min(NEW_VOXELS_AT_ONCE // layer.count_cell_voxels(), CELLS_AT_ONCE))
        if layer.planes[0].voxels.keys is not None:
            hard = []
            for begin in range(0, len(undecided), at_once):
                cells = UndecidedCells(layer, undecided[begin : begin + at_once])
                candidates, others = find_pairs(cells.list_corners(), self._decision.num_outputs)
                hard.append(undecided[begin + others])
                cells.paint(painted, candidates, self._decision, self._values)
            undecided = torch.cat(hard) if hard else undecided
        at_once = max(1, min(at_once, CORNER_SCORES_AT_ONCE // self._decision.num_outputs))
        for begin in range(0, len(undecided), at_once):
            cells = UndecidedCells(layer, undecided[begin : begin + at_once])
            candidates = find_candidates(cells.list_corners(), self._decision)
            cells.paint(painted, candidates, self._decision, self._values)
