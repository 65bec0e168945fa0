"""The grids of a case as its header alone tells them: as if preprocessing cut nothing away."""

from __future__ import annotations

from typing import Any

from stu_pipeline.datasets.volume import Grid
from stu_pipeline.inference.case_grid import CaseGrid
from stu_pipeline.nnunet.export_grid import make_case_grid, spacing_of
from stu_pipeline.nnunet.model import EngineModel
from stu_pipeline.nnunet.reader_properties import READERS, make_reader_properties
from stu_pipeline.preparation.target_grid import complete_target_spacing, compute_target_shape


def describe_uncropped_case(model: EngineModel, grid: Grid) -> CaseGrid:
    """Describe the way back for an image of which nothing is cropped; cropping only makes its grids smaller.

    A reader that turns axes is taken for one that does not: the voxels are as many.

    Args:
        model: whose plan is applied.
        grid: from the header of the image.
    """
    properties: dict[str, Any] = {"spacing": list(grid.spacing_mm)}
    if model.reader_name in READERS:
        properties = make_reader_properties(grid, model.reader_name)
    shape = [grid.shape[axis] for axis in model.plans.transpose_forward]
    spacing = spacing_of(model.plans, properties)
    target = complete_target_spacing(spacing, model.configuration.spacing)
    network = [max(1, size) for size in compute_target_shape(shape, spacing, target)]
    properties["shape_before_cropping"] = shape
    properties["shape_after_cropping_and_before_resampling"] = shape
    properties["bbox_used_for_cropping"] = [[0, size] for size in shape]
    return make_case_grid(model.plans, model.configuration, network, properties)
