"""Spacing and patch that planning does not choose itself: the user's, or those of a pre-training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.plan_pretrained import PretrainedStart
from stu_pipeline.planning.config import PlanConfig, check_axes
from stu_pipeline.planning.explain import by
from stu_pipeline.planning.fit import Demand
from stu_pipeline.planning.topology import Strides, choose_strides, round_patch_up, widen_lone_voxel

GEOMETRY_KEY = "geometry"
_VOLUME = 3
# Fewer samples make a step of nnU-Net's recipe too noisy; its planner has the same limit.
_MIN_BATCH = 2
_CONFIGURATIONS = {2: "2d", _VOLUME: "3d_fullres"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """What is fixed; None is planned. Axes are (z, y, x) of the images, or (y, x) of flat ones: not transposed."""

    spacing_mm: tuple[float, ...] | None = None
    patch_voxels: tuple[int, ...] | None = None
    strides: Strides | None = None
    """Those that go with the patch; None chooses them by nnU-Net's rules."""
    source: str = "as asked for"

    def to_json(self) -> dict[str, Any] | None:
        """Return what a plan remembers of the user's wishes, None without any."""
        if self.strides is not None or (self.spacing_mm is None and self.patch_voxels is None):
            return None
        kept = {"spacing_mm": self.spacing_mm, "patch_voxels": self.patch_voxels}
        return {name: list(values) for name, values in kept.items() if values is not None}


def choose_geometry(config: PlanConfig, story: Mapping[str, Any], start: PretrainedStart | None) -> Geometry:
    """Choose what is fixed: the pre-training's where the plan takes it, else what is asked for, else what was before.

    Args:
        config: what is asked for.
        story: our block of the existing plan of that name; empty without one.
        start: the weights the plan is made for.

    Raises:
        ModelError: the plan is to take a geometry that is not known.
        UsageError: a remembered geometry makes no sense; it was edited by hand.
    """
    if start is not None and start.takes_geometry:
        return _take_pretraining(start)
    spacing = _recall(story, "spacing_mm") if config.spacing_mm is None else config.spacing_mm
    patch = _recall(story, "patch_voxels") if config.patch_voxels is None else config.patch_voxels
    check_axes("spacing", spacing, "--spacing auto")
    check_axes("patch", patch, "--patch auto")
    return Geometry(spacing_mm=spacing or None, patch_voxels=tuple(int(voxels) for voxels in patch) or None)


def complete_spacing(geometry: Geometry, fingerprint: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Return the fixed spacing as nnU-Net's planner wants it, (z, y, x); None where it chooses.

    Args:
        geometry: what is fixed.
        fingerprint: of the dataset.

    Raises:
        UsageError: it has other axes than the images.
    """
    spacing = geometry.spacing_mm
    if spacing is None:
        return None
    is_flat = all(shape[0] == 1 for shape in fingerprint["shapes_after_crop"])
    if is_flat == (len(spacing) == _VOLUME):
        kind, expected = ("flat images", "y,x") if is_flat else ("volumes", "z,y,x")
        text = ",".join(f"{step:g}" for step in spacing)
        raise UsageError(f"a spacing of {kind} is {expected}, got '{text}'", hint=_name_way_out(geometry))
    if not is_flat:
        return spacing
    # The lone slice stays the first axis: nnU-Net puts the axis with the largest spacing there.
    return (max(*(case[0] for case in fingerprint["spacings"]), *spacing), *spacing)


def set_patch(demands: Mapping[str, Demand], geometry: Geometry, transpose_forward: Sequence[int]) -> dict[str, Demand]:
    """Put a fixed patch into the demand it is for, with strides, and a batch of about as many voxels as nnU-Net's.

    Args:
        demands: what each configuration asks for.
        geometry: what is fixed.
        transpose_forward: how the plan orders the axes of the images.

    Raises:
        UsageError: there is no configuration with so many axes.
    """
    patch = geometry.patch_voxels
    if patch is None:
        return dict(demands)
    name = _CONFIGURATIONS[len(patch)]
    if name not in demands:
        raise UsageError(
            f"patch {by(patch)} is for {name}, planned: {', '.join(demands)}", hint=_name_way_out(geometry)
        )
    demand = demands[name]
    # Flat patches have the axes that are left, in their order, so nothing moves.
    order = list(transpose_forward) if len(patch) == _VOLUME else [0, 1]
    patch = tuple(patch[axis] for axis in order)
    if geometry.strides is None:
        strides = choose_strides(demand.spacing_mm, patch)
    else:
        strides = tuple(tuple(stride[axis] for axis in order) for stride in geometry.strides)
    rounded = widen_lone_voxel(round_patch_up(patch, strides), strides)
    changed = replace(
        demand,
        patch=rounded,
        strides=strides,
        batch=_scale_batch(demand, rounded),
        has_fixed_patch=geometry.strides is None,
        has_fixed_strides=geometry.strides is not None,
        patch_source=geometry.source if rounded == patch else f"{geometry.source}, rounded up to the strides",
    )
    return {**demands, name: changed}


def explain_geometry(demand: Demand, planned: Demand, geometry: Geometry) -> list[str]:
    """Say in a line each what is fixed in one configuration.

    Args:
        demand: of the configuration.
        planned: the same before its patch was fixed.
        geometry: what is fixed.
    """
    lines = []
    if geometry.spacing_mm is not None and demand.configuration in _CONFIGURATIONS.values():
        lines.append(f"spacing: {' x '.join(f'{step:.4g}' for step in demand.spacing_mm)} mm, {geometry.source}")
    if demand.patch != planned.patch and demand.batch != planned.batch:
        lines.append(
            f"batch: {demand.batch}, about as many voxels as nnU-Net's {planned.batch} patches of {by(planned.patch)}"
        )
    return lines


def warn_of_padding(demands: Mapping[str, Demand], geometry: Geometry) -> str:
    """Return a warning when most of a fixed patch lies outside the median image, else an empty text."""
    if geometry.patch_voxels is None:
        return ""
    demand = demands[_CONFIGURATIONS[len(geometry.patch_voxels)]]
    inside = math.prod(min(size, edge) for size, edge in zip(demand.median_shape, demand.patch, strict=True))
    if inside * 2 >= math.prod(demand.patch):
        return ""
    shape = by([round(size) for size in demand.median_shape])
    return (
        f"{demand.configuration}: patch {by(demand.patch)} is mostly padding, the median image has {shape} voxels at "
        "this spacing; a smaller --patch trains faster"
    )


def _name_way_out(geometry: Geometry) -> str:
    return "--spacing auto --patch auto" if geometry.strides is None else "leave out --pretrained-geometry"


def _recall(story: Mapping[str, Any], name: str) -> tuple[float, ...]:
    """Return what the existing plan was asked for; empty where nothing, or nothing usable, is written."""
    known = story.get(GEOMETRY_KEY)
    values = known.get(name) if isinstance(known, Mapping) else None
    is_usable = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    return tuple(values) if is_usable and values else ()


def _take_pretraining(start: PretrainedStart) -> Geometry:
    missing = [
        name
        for name, value in (("spacing", start.spacing_mm), ("patch", start.patch_voxels), ("strides", start.strides))
        if value is None
    ]
    if missing or start.spacing_mm is None or start.patch_voxels is None or start.strides is None:
        raise ModelError(
            f"{' and '.join(missing)} of the pre-training of '{start.file}' are not known, so no plan can take them",
            hint="--sidecar FILE names what was stored beside the weights, or leave out --pretrained-geometry",
        )
    back = _find_way_back(start)
    return Geometry(
        spacing_mm=tuple(start.spacing_mm[axis] for axis in back),
        patch_voxels=tuple(start.patch_voxels[axis] for axis in back),
        strides=tuple(tuple(stride[axis] for axis in back) for stride in start.strides),
        source="the pre-training's",
    )


def _find_way_back(start: PretrainedStart) -> list[int]:
    """Find for each axis of the images its place in the plan of the pre-training."""
    if start.num_axes != _VOLUME or start.transpose_forward is None:
        return list(range(start.num_axes))
    return [start.transpose_forward.index(axis) for axis in range(_VOLUME)]


def _scale_batch(demand: Demand, patch: Sequence[int]) -> int:
    return max(_MIN_BATCH, round(demand.batch * math.prod(demand.patch) / math.prod(patch)))
