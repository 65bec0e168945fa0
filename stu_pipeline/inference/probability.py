"""Probabilities from scores, and masks from probabilities on the cropped image's grid."""

from __future__ import annotations

import torch

from stu_pipeline.inference.case_grid import CaseGrid, Decision
from stu_pipeline.inference.mask_canvas import Mask, MaskCanvas, list_code_values
from stu_pipeline.inference.slabs import Slab
from stu_pipeline.inference.voxel_codes import decide_voxels

HALF = 0.5


def to_probabilities(slab: Slab, decision: Decision) -> Slab:
    """Turn logits into float32 probabilities: softmax over the channels, or sigmoid of each region."""
    scores = slab.scores.float()
    probabilities = torch.softmax(scores, dim=0) if decision.region_values is None else torch.sigmoid(scores)
    return Slab(start=slab.start, axis=slab.axis, scores=probabilities)


class MaskPainter:
    """Paints the mask of a case from slabs of scores on the cropped image's grid.

    Args:
        grid: of the case.
        decision: softmax or regions.
        axis: the walk axis.
        threshold: above which a region is painted; 0 for logits.
    """

    def __init__(self, grid: CaseGrid, decision: Decision, axis: int, threshold: float = HALF) -> None:
        self._decision, self._axis, self._threshold = decision, axis, threshold
        self._canvas = MaskCanvas(grid, decision, axis)

    def add(self, slab: Slab) -> None:
        """Paint the planes of a slab.

        Raises:
            NonFiniteError: a score is NaN or infinite.
        """
        codes = decide_voxels(slab.scores, self._decision, self._threshold)
        values = list_code_values(self._decision, codes.device)
        for plane in codes.unbind(self._axis):
            self._canvas.paint(values[plane.long()][None])

    def finish(self) -> Mask:
        """Return the mask `(z, y, x)` on the image's grid."""
        return self._canvas.finish()
