"""Forecast the GPU memory of a training step from counts alone.

The coefficients and where they come from are data: `plans/memory.json`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stu_pipeline.planning.knowledge import read_knowledge

BYTES_PER_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryModel:
    """Bytes of one training step as a linear function of counts."""

    constant_bytes: float
    bytes_per_element: float
    bytes_per_parameter: float
    bytes_per_class_voxel: float
    reference_classes: int
    status: str

    def forecast_gib(
        self, *, num_elements: int, num_parameters: int, patch_voxels: Sequence[int], batch: int, num_classes: int
    ) -> float:
        """Forecast the memory of one training step in GiB.

        Args:
            num_elements: convolution output elements of one sample (`networks/cost.py`).
            num_parameters: weights of the network.
            patch_voxels: patch size, any number of axes.
            batch: samples per step.
            num_classes: outputs per voxel; those above the fitted data's cost extra in the loss.
        """
        extra_classes = max(0, num_classes - self.reference_classes)
        total = (
            self.constant_bytes
            + self.bytes_per_element * num_elements * batch
            + self.bytes_per_parameter * num_parameters
            + self.bytes_per_class_voxel * extra_classes * math.prod(patch_voxels) * batch
        )
        return total / BYTES_PER_GIB


def read_memory_model() -> MemoryModel:
    """Read the coefficients from `plans/memory.json`."""
    return parse_memory_model(read_knowledge("memory.json"))


def parse_memory_model(content: Mapping[str, Any]) -> MemoryModel:
    """Build the model from the content of `memory.json`."""
    return MemoryModel(
        constant_bytes=float(content["constant_bytes"]),
        bytes_per_element=float(content["bytes_per_element"]),
        bytes_per_parameter=float(content["bytes_per_parameter"]),
        bytes_per_class_voxel=float(content["bytes_per_class_voxel"]),
        reference_classes=int(content["reference_classes"]),
        status=str(content["status"]),
    )
