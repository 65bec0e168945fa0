"""The way back from the network's grid as a plan states it: shapes, axes, and how scores are resampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stu_pipeline.inference.case_grid import CaseGrid
from stu_pipeline.nnunet.raw_case import explain_memory
from stu_pipeline.preparation.target_grid import ANISOTROPY_THRESHOLD, complete_target_spacing, find_separate_axis

_RESAMPLING = "resample_data_or_seg_to_shape"
_ORDERS = (0, 1, 3)
_KNOWN_ARGUMENTS = frozenset({"is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold"})
# The defaults of nnU-Net where a plan is silent.
_DEFAULTS = {"order": 3, "order_z": 0, "force_separate_z": False}


def is_export_known(configuration: Any) -> bool:
    """Tell whether our own export does what a configuration says about resampling scores.

    Args:
        configuration: nnU-Net's `ConfigurationManager`.
    """
    arguments = _read_arguments(configuration)
    return bool(
        configuration.configuration["resampling_fn_probabilities"] == _RESAMPLING
        and set(arguments) <= _KNOWN_ARGUMENTS
        and not arguments.get("is_seg", False)
        and arguments["order"] in _ORDERS
        and arguments["order_z"] in _ORDERS
    )


def make_case_grid(
    plans: Any, configuration: Any, network_shape: Sequence[int], properties: Mapping[str, Any]
) -> CaseGrid:
    """Describe the way back for one case.

    Args:
        plans: nnU-Net's `PlansManager`.
        configuration: its `ConfigurationManager`.
        network_shape: voxels of the logits.
        properties: of the preprocessed case, as nnU-Net stores them.
    """
    spacing = spacing_of(plans, properties)
    target = complete_target_spacing(spacing, configuration.spacing)
    how = _read_arguments(configuration) if is_export_known(configuration) else {**_DEFAULTS, "order": 1}
    threshold = float(how.get("separate_z_anisotropy_threshold", ANISOTROPY_THRESHOLD))
    force: bool | None = how["force_separate_z"]  # type: ignore[assignment]
    z, y, x = (int(size) for size in network_shape)
    cropped = [int(size) for size in properties["shape_after_cropping_and_before_resampling"]]
    full = [int(size) for size in properties["shape_before_cropping"]]
    box = [(int(low), int(high)) for low, high in properties["bbox_used_for_cropping"]]
    first, second, third = (int(axis) for axis in plans.transpose_backward)
    return CaseGrid(
        network_shape=(z, y, x),
        cropped_shape=(cropped[0], cropped[1], cropped[2]),
        full_shape=(full[0], full[1], full[2]),
        box=(box[0], box[1], box[2]),
        transpose_backward=(first, second, third),
        separate_axis=find_separate_axis(target, spacing, force=force, threshold=threshold),
        order=int(how["order"]),
        separate_order=int(how["order_z"]),
    )


def make_next_stage_grid(
    plans: Any, configuration: Any, network_shape: Sequence[int], shape: Sequence[int]
) -> CaseGrid:
    """Describe the way from the network grid of one stage to that of the next one: neither cropped nor turned.

    Args:
        plans: nnU-Net's `PlansManager`.
        configuration: `ConfigurationManager` of the first stage.
        network_shape: voxels of its logits.
        shape: voxels of the next stage's input.
    """
    spacing = list(configuration.spacing)
    properties = {
        # As nnU-Net does it: the spacing of the first stage decides alone about a separate axis.
        "spacing": [spacing[axis] for axis in plans.transpose_backward],
        "shape_before_cropping": shape,
        "shape_after_cropping_and_before_resampling": shape,
        "bbox_used_for_cropping": [(0, size) for size in shape],
    }
    grid = make_case_grid(plans, configuration, network_shape, properties)
    return replace(grid, transpose_backward=(0, 1, 2))


def resample_with_engine(
    plans: Any, configuration: Any, logits: torch.Tensor, *, grid: CaseGrid, properties: Mapping[str, Any]
) -> npt.NDArray[np.float32]:
    """Resample the logits `(c, z, y, x)` of a whole case to the cropped image's grid, with the plan's own function.

    Raises:
        MemoryLimitError: the full-size logits do not fit the memory.
    """
    spacing = spacing_of(plans, properties)
    current = list(complete_target_spacing(spacing, configuration.spacing))
    target = list(grid.cropped_shape)
    try:
        resampled = configuration.resampling_fn_probabilities(logits.numpy(), target, current, spacing)
    except (MemoryError, RuntimeError) as error:
        raise explain_memory(error, f"{len(logits)} outputs of {'x'.join(map(str, target))} voxels") from error
    return np.asarray(resampled, dtype=np.float32)


def spacing_of(plans: Any, properties: Mapping[str, Any]) -> list[float]:
    """Return the spacing of an image in the plan's axes."""
    return [float(properties["spacing"][axis]) for axis in plans.transpose_forward]


def _read_arguments(configuration: Any) -> dict[str, Any]:
    return {**_DEFAULTS, **configuration.configuration["resampling_fn_probabilities_kwargs"]}
