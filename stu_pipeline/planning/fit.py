"""Fit one configuration of a scale into a GPU: nnU-Net's patch and batch as long as any way of running them fits.

The batch of the plan is always nnU-Net's. What changes first is how a step runs (micro-batches, activation
checkpointing), which leaves its result as it is; the patch shrinks only when one sample with checkpointing is
too much.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from stu_pipeline.networks.cost import count_parameters
from stu_pipeline.networks.scales import SCALES, Scale
from stu_pipeline.plan_execution import Execution
from stu_pipeline.planning.memory import MemoryModel, count_elements
from stu_pipeline.planning.topology import Patch, Strides, shrink_patch, shrink_patch_on

# Smaller patches see too little context to be worth a training; in 2D nnU-Net's are larger throughout.
_MIN_EDGE_VOXELS = {2: 64, 3: 32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one configuration asks for before memory is looked at. Axes (z, y, x) or (y, x)."""

    configuration: str
    patch: Patch
    batch: int
    strides: Strides
    spacing_mm: tuple[float, ...]
    median_shape: tuple[float, ...]
    num_channels: int
    """Input channels of the network."""
    num_classes: int
    batch_dice: bool = False
    """Whether the soft Dice sums run over the batch; then a batch in parts needs a forward pass more."""
    num_mask_channels: int = 0
    """How many of the input channels are made from a previous stage's mask rather than stored."""
    has_fixed_patch: bool = False
    """Whether the user, or another configuration (the second stage of a cascade), decides the patch."""
    has_fixed_strides: bool = False
    """Whether a smaller patch keeps the strides, which are then those of a pre-training."""
    patch_source: str = "nnU-Net's"
    """Whose patch it is, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What one configuration of one scale gets."""

    scale: Scale
    demand: Demand
    patch: Patch
    strides: Strides
    execution: Execution
    num_parameters: int
    forecast_gib: float
    fits: bool
    memory_gib: float = math.inf
    """What it was made to fit."""

    @property
    def batch(self) -> int:
        """Samples per optimizer step: nnU-Net's."""
        return self.demand.batch

    @property
    def is_reduced(self) -> bool:
        """Whether the patch is smaller than the demand's, which is nnU-Net's unless the user decides it."""
        return self.patch != self.demand.patch

    @property
    def keeps_recipe(self) -> bool:
        """Whether an optimizer step computes what nnU-Net's would: same patch, same batch, and with it same Dice."""
        return self.fits and not self.is_reduced


def measure_demand(model: MemoryModel, demand: Demand, scale: Scale) -> Fit:
    """Forecast a scale with nnU-Net's patch and whole batch; `fits` is True, no limit is looked at."""
    return _Fitting(model, demand, scale).measure(demand.patch, demand.strides, demand.batch)


def fit_configuration(model: MemoryModel, demand: Demand, scale: Scale, memory_gib: float) -> Fit:
    """Find the largest patch, then the best way to run the batch, that the forecast puts inside the memory.

    For one patch, in this order: the whole batch; with batch Dice the whole batch with checkpointing, which costs as
    much time as the extra pass that parts of a batch then need; the largest micro-batch without checkpointing, down to
    one sample; the largest micro-batch with it. Where nothing fits, the smallest patch is returned, one sample at a
    time with checkpointing, and `fits` is False.
    """
    fitting = _Fitting(model, demand, scale, memory_gib)
    patch, strides = demand.patch, demand.strides
    while True:
        for micro_batch, is_checkpointing in _list_ways(demand):
            found = fitting.measure(patch, strides, micro_batch, is_checkpointing=is_checkpointing)
            if found.fits:
                return found
        smaller = _shrink(demand, patch, strides)
        if smaller is None:
            return found
        patch, strides = smaller


def _list_ways(demand: Demand) -> Iterator[tuple[int, bool]]:
    """List how a batch can run, best first: micro-batch and whether activations are recomputed.

    Parts of equal size need no more steps than the largest parts do, and less memory.
    """
    parts = sorted({math.ceil(demand.batch / steps) for steps in range(1, demand.batch + 1)}, reverse=True)
    yield parts[0], False
    if demand.batch_dice:
        yield parts[0], True
    for micro_batch in parts[1:]:
        yield micro_batch, False
    for micro_batch in parts:
        yield micro_batch, True


def _shrink(demand: Demand, patch: Patch, strides: Strides) -> tuple[Patch, Strides] | None:
    if demand.has_fixed_patch:
        return None
    least = _MIN_EDGE_VOXELS[len(patch)]
    if demand.has_fixed_strides:
        return shrink_patch_on(strides, patch, demand.median_shape, least)
    return shrink_patch(patch, demand.spacing_mm, demand.median_shape, least)


@dataclass(frozen=True, slots=True)
class _Fitting:
    model: MemoryModel
    demand: Demand
    scale: Scale
    memory_gib: float = math.inf

    def measure(self, patch: Patch, strides: Strides, micro_batch: int, *, is_checkpointing: bool = False) -> Fit:
        """Forecast one way of running one patch."""
        demand = self.demand
        num_parameters = _count_parameters(self.scale, demand.num_channels, demand.num_classes, len(patch))
        elements = _count_elements(self.scale, patch, strides, demand.num_classes, is_checkpointing)
        forecast_gib = self.model.forecast_gib(
            num_elements=elements,
            num_parameters=num_parameters,
            patch_voxels=patch,
            batch=micro_batch,
            num_classes=demand.num_classes,
            num_channels=demand.num_channels,
            is_accumulating=micro_batch < demand.batch,
        )
        execution = Execution(
            micro_batch=micro_batch,
            activation_checkpointing=is_checkpointing,
            batch_dice_scope="effective batch" if demand.batch_dice else "sample",
        )
        return Fit(
            scale=self.scale,
            demand=demand,
            patch=patch,
            strides=strides,
            execution=execution,
            num_parameters=num_parameters,
            forecast_gib=forecast_gib,
            fits=forecast_gib <= self.memory_gib,
            memory_gib=self.memory_gib,
        )


@functools.lru_cache(maxsize=1024)
def _count_parameters(scale: Scale, num_channels: int, num_classes: int, num_axes: int) -> int:
    spec = SCALES[scale]
    features, blocks = spec.features_per_stage, spec.n_blocks_per_stage
    return count_parameters(num_channels, num_classes, features, blocks, conv_op=f"{num_axes}d")


@functools.lru_cache(maxsize=4096)
def _count_elements(scale: Scale, patch: Patch, strides: Strides, num_classes: int, is_checkpointing: bool) -> int:
    return count_elements(scale, patch, strides, num_classes=num_classes, activation_checkpointing=is_checkpointing)
