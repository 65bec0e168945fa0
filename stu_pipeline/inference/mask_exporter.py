"""Turn slabs of logits into the mask on the image's grid: exactly, and in memory that is known in advance."""

from __future__ import annotations

import torch

from stu_pipeline.inference.case_grid import CaseGrid, Decision
from stu_pipeline.inference.corners import is_pruned
from stu_pipeline.inference.export_memory import choose_dense_planes
from stu_pipeline.inference.mask_canvas import Mask, MaskCanvas
from stu_pipeline.inference.probability import MaskPainter
from stu_pipeline.inference.pruned_painter import PrunedPainter
from stu_pipeline.inference.resampled_slabs import SlabResampler
from stu_pipeline.inference.slabs import Slab


class MaskExporter:
    """Takes the logits of a case on the network grid, slab by slab, and gives its mask.

    The mask is that of logits resampled in single precision and decided voxel by voxel, the lower channel on a
    tie; how it is reached depends on the grid: channels that cannot win are left out where interpolation is a
    weighted mean, all are resampled otherwise, none where the grids agree.

    Args:
        grid: of the case.
        decision: softmax or regions.
        axis: the walk axis.
        device: where the work is done; slabs are moved there.
    """

    def __init__(self, grid: CaseGrid, decision: Decision, *, axis: int, device: torch.device) -> None:
        self._device = device
        self._pruned: PrunedPainter | None = None
        if grid.network_shape != grid.cropped_shape and is_pruned(grid):
            canvas = MaskCanvas(grid, decision, axis)
            self._pruned = PrunedPainter(grid, decision, axis=axis, canvas=canvas, device=device)
            self._result: MaskCanvas | MaskPainter = canvas
            return
        self._resampler = SlabResampler(grid, axis, choose_dense_planes(grid, decision, axis))
        self._painter = MaskPainter(grid, decision, axis, threshold=0.0)
        self._result = self._painter

    @torch.inference_mode()
    def add(self, slab: Slab) -> None:
        """Take the next slab of logits; its memory may be reused afterwards.

        Raises:
            NonFiniteError: a score is NaN or infinite.
        """
        slab = Slab(start=slab.start, axis=slab.axis, scores=slab.scores.to(self._device))
        if self._pruned is not None:
            self._pruned.add(slab)
            return
        for part in self._resampler.add(slab):
            self._painter.add(part)

    def finish(self) -> Mask:
        """Return the mask `(z, y, x)` uint8 on the image's grid; uint16 when a value exceeds 255."""
        return self._result.finish()
