"""How much memory the export of a case takes, known before it starts."""

from __future__ import annotations

import math

import numpy as np

from stu_pipeline.inference.candidates import CORNER_SCORES_AT_ONCE
from stu_pipeline.inference.case_grid import CaseGrid, Decision
from stu_pipeline.inference.corners import MAX_CELL_OUTPUTS, find_axis_order, is_pruned
from stu_pipeline.inference.interpolated_volume import CUBIC
from stu_pipeline.inference.mask_canvas import choose_mask_type
from stu_pipeline.inference.pruned_painter import NEW_VOXELS_AT_ONCE
from stu_pipeline.inference.resampled_slabs import needs_whole_case
from stu_pipeline.inference.voxel_codes import CPU_PIECE, CUDA_PIECE

DENSE_BYTES = 256 << 20
"""What a dense slab may take; one of one plane may take more."""

_FLOAT, _CODE, _INDEX = 4, 2, 8
# Bytes held at the same time, counted in the code and checked by a test: per voxel of a piece, per corner score,
# per new voxel of undecided cells, per cell of a layer.
_PIECE_BYTES, _CORNER_BYTES, _NEW_VOXEL_BYTES, _CELL_BYTES = 48, 44, 72, 40


def forecast_export_bytes(
    grid: CaseGrid, decision: Decision, axis: int, slab_planes: int, *, on_gpu: bool = False
) -> int:
    """Forecast the peak of what `MaskExporter` allocates, in bytes; the slab that is handed in is the caller's.

    With C channels, network planes of n voxels and new planes of m voxels across the walk axis, all cases hold the
    mask (1 or 2 bytes per voxel of the image) and 48 bytes for each of the 32,768 voxels of a piece. Besides:

    - pruned: 2 x 4 C n (the plane kept from the last slab and the next one), 14 n (slab_planes + 2) for codes and
      the three highest scores, 40 per cell and up to 9 x 4 m for one layer of cells, 44 for each of 1,048,576 corner
      scores and 72 for each of 131,072 new voxels, which are looked at together.
    - dense: 4 x 4 C n, the new slab of 4 C m per plane (as many as 256 MiB hold, one at least), 16 m per plane for
      its codes, and 4 volumes of one channel while it is resampled. With a cubic spline along the walk axis also
      4 C per voxel of the network grid.
    - grids that agree: 10 n per plane for codes.

    Args:
        grid: of the case.
        decision: softmax or regions.
        axis: the walk axis.
        slab_planes: thickest slab that will be handed in.
        on_gpu: whether a GPU works; its pieces have 4,194,304 voxels, and the slab is copied to it, which is not
            counted here.
    """
    mask = math.prod(grid.full_shape) * np.dtype(choose_mask_type(decision)).itemsize
    always = mask + (CUDA_PIECE if on_gpu else CPU_PIECE) * _PIECE_BYTES
    old_plane, new_plane = (math.prod(shape) // shape[axis] for shape in (grid.network_shape, grid.cropped_shape))
    if grid.network_shape == grid.cropped_shape:
        return always + (_CODE + _INDEX) * old_plane * slab_planes
    kept = _FLOAT * decision.num_outputs * old_plane
    if is_pruned(grid):
        codes = (_CODE + 3 * _FLOAT) * old_plane * (slab_planes + 2)
        layer = _CELL_BYTES * min(2 * old_plane, new_plane) + (MAX_CELL_OUTPUTS + 1) * _FLOAT * new_plane
        return (
            always + 2 * kept + codes + layer + CORNER_SCORES_AT_ONCE * _CORNER_BYTES
            + NEW_VOXELS_AT_ONCE * _NEW_VOXEL_BYTES
        )  # fmt: skip
    planes = choose_dense_planes(grid, decision, axis)
    result = planes * new_plane * (_FLOAT * decision.num_outputs + 2 * _INDEX)
    collected = kept * grid.network_shape[axis] if needs_whole_case(grid, axis) else 4 * kept
    return always + result + collected + 4 * _FLOAT * _count_channel_voxels(grid, axis, planes, slab_planes)


def choose_dense_planes(grid: CaseGrid, decision: Decision, axis: int) -> int:
    """Choose how many planes of all channels are resampled at once where nothing can be left out."""
    plane_bytes = _FLOAT * decision.num_outputs * math.prod(grid.cropped_shape) // grid.cropped_shape[axis]
    return max(1, min(DENSE_BYTES // plane_bytes, grid.cropped_shape[axis]))


def _count_channel_voxels(grid: CaseGrid, axis: int, planes: int, slab_planes: int) -> int:
    """Count the voxels of the largest volume on the way of one channel from the old grid to `planes` new ones."""
    size = grid.network_shape[axis]
    old_planes = size if find_axis_order(grid, axis) == CUBIC else min(size, slab_planes)
    across = [max(grid.network_shape[a], grid.cropped_shape[a]) for a in range(3) if a != axis]
    return math.prod(across) * max(old_planes, planes)
