"""Fit one configuration of a scale into a GPU: nnU-Net's patch and batch first, then less."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stu_pipeline.networks.cost import count_feature_map_elements, count_parameters
from stu_pipeline.networks.scales import SCALES, Scale
from stu_pipeline.planning.memory import MemoryModel
from stu_pipeline.planning.topology import Patch, Strides, shrink_patch

MIN_BATCH = 2
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
    num_classes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What one configuration of one scale gets."""

    scale: Scale
    demand: Demand
    patch: Patch
    batch: int
    strides: Strides
    num_parameters: int
    num_elements: int
    forecast_gib: float
    fits: bool

    @property
    def is_reduced(self) -> bool:
        """Whether batch or patch are smaller than nnU-Net's."""
        return self.patch != self.demand.patch or self.batch != self.demand.batch


def measure_demand(model: MemoryModel, demand: Demand, scale: Scale) -> Fit:
    """Forecast a scale with nnU-Net's own patch and batch; `fits` is True, no limit is looked at."""
    return _measure(model, demand, scale, patch=demand.patch, batch=demand.batch, strides=demand.strides)


def fit_configuration(model: MemoryModel, demand: Demand, scale: Scale, memory_gib: float) -> Fit:
    """Find the largest batch, then the largest patch, that the forecast puts inside the memory.

    The batch goes down to 2 before the patch shrinks; the batch then stays 2. A batch of 1 that nnU-Net
    planned stays. Where nothing fits, the smallest patch is returned with `fits` False.
    """
    found = measure_demand(model, demand, scale)
    while found.forecast_gib > memory_gib and found.batch > MIN_BATCH:
        found = _measure(model, demand, scale, patch=found.patch, batch=found.batch - 1, strides=found.strides)
    min_edge = _MIN_EDGE_VOXELS[len(demand.patch)]
    while found.forecast_gib > memory_gib:
        smaller = shrink_patch(found.patch, demand.spacing_mm, demand.median_shape, min_edge)
        if smaller is None:
            return replace(found, fits=False)
        found = _measure(model, demand, scale, patch=smaller[0], batch=found.batch, strides=smaller[1])
    return found


def _measure(
    model: MemoryModel,
    demand: Demand,
    scale: Scale,
    *,
    patch: Patch,
    batch: int,
    strides: Strides,
    fits: bool = True,
) -> Fit:
    spec = SCALES[scale]
    widths, blocks = spec.features_per_stage, spec.n_blocks_per_stage
    num_parameters = count_parameters(demand.num_channels, demand.num_classes, widths, blocks, conv_op=f"{len(patch)}d")
    num_elements = count_feature_map_elements(patch, strides, widths, blocks, num_classes=demand.num_classes)
    return Fit(
        scale=scale,
        demand=demand,
        patch=patch,
        batch=batch,
        strides=strides,
        num_parameters=num_parameters,
        num_elements=num_elements,
        forecast_gib=model.forecast_gib(
            num_elements=num_elements,
            num_parameters=num_parameters,
            patch_voxels=patch,
            batch=batch,
            num_classes=demand.num_classes,
        ),
        fits=fits,
    )
