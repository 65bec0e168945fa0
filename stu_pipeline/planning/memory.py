"""Forecast the GPU memory of a training step from counts alone.

A step has two peaks. When the backward pass starts, every kept activation is there, with the weights, the
optimizer's state and the low-precision copy of the weights; gradients are not (nnU-Net frees them before each
step), unless micro-batches accumulate them. When the optimizer steps, the activations are gone and the gradients
are there, once more as a temporary of the fused update. The larger peak counts.
The coefficients and where they come from are data: `plans/memory.json`, and `plans/measured_gpu.json` once a GPU
has been measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stu_pipeline.knowledge import find_knowledge, read_knowledge
from stu_pipeline.networks.cost import count_feature_map_elements, count_saved_elements
from stu_pipeline.networks.scales import SCALES, Scale

BYTES_PER_GIB = 2**30
MEASURED_NAME = "measured_gpu.json"

Precision = Literal["bf16", "fp16", "fp32"]
Optimizer = Literal["sgd", "adamw"]
Provenance = Literal["published", "measured", "inferred"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTerms:
    """Bytes of one training step, part by part."""

    constant: float
    activations: float
    parameters: float
    """Weights, optimizer state, low-precision copy, and gradients where micro-batches accumulate."""
    loss: float
    """What classes and channels add beyond the networks the coefficients were fitted on."""
    optimizer_step: float
    """Weights, gradients, optimizer state and the update's temporary: the other peak, without activations."""

    @property
    def total_bytes(self) -> float:
        """Return the larger of the two peaks."""
        return self.constant + max(self.activations + self.parameters + self.loss, self.optimizer_step)

    @property
    def total_gib(self) -> float:
        """Return the larger of the two peaks in GiB."""
        return self.total_bytes / BYTES_PER_GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryModel:
    """The coefficients, in bytes."""

    constant_bytes: float
    bytes_per_element: Mapping[str, float]
    """By precision; an element is one convolution output of one sample."""
    bytes_per_parameter: Mapping[str, float]
    """By part: weights, gradients, sgd, adamw, low_precision_copy, update, overhead."""
    bytes_per_class_voxel: float
    bytes_per_input_voxel: float
    reference_classes: int
    status: str
    provenance: Provenance = "inferred"

    def forecast(
        self,
        *,
        num_elements: float,
        num_parameters: int,
        patch_voxels: Sequence[int],
        batch: int,
        num_classes: int,
        num_channels: int = 1,
        precision: Precision = "bf16",
        optimizer: Optimizer = "sgd",
        is_accumulating: bool = False,
    ) -> MemoryTerms:
        """Forecast the memory of one training step.

        Args:
            num_elements: convolution output elements of one sample (`networks/cost.py`), or what
                `count_elements` says they weigh with checkpointing.
            num_parameters: weights of the network.
            patch_voxels: patch size, any number of axes.
            batch: samples that pass the network at once.
            num_classes: outputs per voxel; those above the fitted data's cost extra in the loss.
            num_channels: channels of the input; those above one cost extra.
            precision: 'fp32', or a 16-bit type under autocast.
            optimizer: whose state is kept.
            is_accumulating: whether gradients of earlier micro-batches are kept during the forward pass.
        """
        part = self.bytes_per_parameter
        kept = part["weights"] + part[optimizer]
        backward = kept + part["overhead"] + (part["low_precision_copy"] if precision != "fp32" else 0.0)
        voxels = math.prod(patch_voxels) * batch
        extra_classes = max(0, num_classes - self.reference_classes)
        extra_channels = num_channels - 1
        return MemoryTerms(
            constant=self.constant_bytes,
            activations=self.bytes_per_element[precision] * num_elements * batch,
            parameters=(backward + (part["gradients"] if is_accumulating else 0.0)) * num_parameters,
            loss=(self.bytes_per_class_voxel * extra_classes + self.bytes_per_input_voxel * extra_channels) * voxels,
            optimizer_step=(kept + part["gradients"] + part["update"]) * num_parameters,
        )

    def forecast_gib(self, **counts: Any) -> float:
        """Forecast the memory of one training step in GiB; arguments as for `forecast`."""
        return self.forecast(**counts).total_gib


def count_elements(
    scale: Scale,
    patch: Sequence[int],
    strides: Sequence[Sequence[int]],
    *,
    num_classes: int,
    activation_checkpointing: bool = False,
) -> int:
    """Count what a sample's activations weigh, in convolution outputs: the unit the coefficients are fitted in.

    With checkpointing, the share of the elements that autograd still keeps.
    """
    spec = SCALES[scale]
    features, blocks = spec.features_per_stage, spec.n_blocks_per_stage
    elements = count_feature_map_elements(patch, strides, features, blocks, num_classes=num_classes)
    if not activation_checkpointing:
        return elements
    kept = count_saved_elements(patch, strides, features, blocks, activation_checkpointing=True)
    return round(elements * kept / count_saved_elements(patch, strides, features, blocks))


def read_memory_model() -> MemoryModel:
    """Read the coefficients: measured ones where `plans/measured_gpu.json` has them, else the fitted ones."""
    fitted = read_knowledge("memory.json")
    measured = (find_knowledge(MEASURED_NAME) or {}).get("memory")
    return parse_memory_model({**fitted, **measured} if measured else fitted)


def parse_memory_model(content: Mapping[str, Any]) -> MemoryModel:
    """Build the model from the content of `memory.json`."""
    return MemoryModel(
        constant_bytes=float(content["constant_bytes"]),
        bytes_per_element={name: float(value) for name, value in content["bytes_per_element"].items()},
        bytes_per_parameter={name: float(value) for name, value in content["bytes_per_parameter"].items()},
        bytes_per_class_voxel=float(content["bytes_per_class_voxel"]),
        bytes_per_input_voxel=float(content["bytes_per_input_voxel"]),
        reference_classes=int(content["reference_classes"]),
        status=str(content["status"]),
        provenance=content["provenance"],
    )
