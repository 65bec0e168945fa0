"""nnU-Net's own objects for the export of one case, made from what describes it here."""

from __future__ import annotations

from typing import Any

import numpy as np
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from stu_pipeline.inference.case_grid import CaseGrid, Decision


def describe_stock_case(
    grid: CaseGrid,
    decision: Decision,
    *,
    network_mm: tuple[float, ...] | None = None,
    image_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> tuple[PlansManager, ConfigurationManager, LabelManager, dict[str, Any]]:
    """Return what `convert_predicted_logits_to_segmentation_with_correct_shape` takes after the logits.

    Args:
        grid: of the case; its separate axis is forced on nnU-Net unless `network_mm` is given.
        decision: softmax or regions.
        network_mm: spacing of the network grid, two numbers for a 2D plan: then spacing decides the separate axis.
        image_mm: spacing of the image in the plan's axes.
    """
    if network_mm is None:
        force: bool | None = grid.separate_axis is not None
        # The axis with the coarsest steps of the network grid.
        network_mm = tuple(5.0 if axis == grid.separate_axis else 1.0 for axis in range(3))
    else:
        force = None
    forward = np.argsort(grid.transpose_backward).tolist()
    plans = PlansManager(
        {"transpose_forward": forward, "transpose_backward": list(grid.transpose_backward), "configurations": {}}
    )
    configuration = ConfigurationManager(
        {
            "architecture": {},
            "spacing": list(network_mm),
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": {
                "is_seg": False,
                "order": grid.order,
                "order_z": grid.separate_order,
                "force_separate_z": force,
            },
        }
    )
    properties = {
        "spacing": [image_mm[axis] for axis in grid.transpose_backward],
        "shape_before_cropping": grid.full_shape,
        "bbox_used_for_cropping": [list(limits) for limits in grid.box],
        "shape_after_cropping_and_before_resampling": grid.cropped_shape,
    }
    return plans, configuration, _describe_labels(decision), properties


def _describe_labels(decision: Decision) -> LabelManager:
    names: dict[str, Any] = {"background": 0}
    if decision.region_values is None:
        return LabelManager({**names, **{f"label {i}": i for i in range(1, decision.num_outputs)}}, None)
    values = range(1, decision.num_outputs + 1)
    # Nested regions: all labels, all but the first, ...
    regions = {f"region {i}": [value for value in values if value >= i] for i in values}
    return LabelManager({**names, **regions}, list(decision.region_values))
