"""Turn nnU-Net's draft into the plan of one scale: same recipe, STU-Net as the network.

Every name in the result but the network class is one of nnU-Net's own, so stock commands can use it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import stu_pipeline
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.plan_architecture import NETWORK_CLASS, resolve_configuration
from stu_pipeline.plan_execution import EXECUTION_KEY, Execution, find_execution
from stu_pipeline.plan_pretrained import PRETRAINED_KEY
from stu_pipeline.planfile import PLAN_SCHEMA, STU_KEY
from stu_pipeline.planning.fit import Demand, Fit, fit_configuration
from stu_pipeline.planning.geometry import GEOMETRY_KEY
from stu_pipeline.planning.pretrained import is_start_kept
from stu_pipeline.planning.topology import fit_strides, round_patch_up, widen_lone_voxel

if TYPE_CHECKING:
    from stu_pipeline.plan_pretrained import PretrainedStart
    from stu_pipeline.planning.budget import Budget
    from stu_pipeline.planning.config import ConfigurationForecast
    from stu_pipeline.planning.memory import MemoryModel
    from stu_pipeline.planning.scale_choice import ScaleChoice

# nnU-Net's planner makes these; other names in an existing plan are the user's.
PLANNED_NAMES = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")


def read_demands(draft: Mapping[str, Any], *, num_channels: int, num_classes: int) -> dict[str, Demand]:
    """Read what each configuration of a draft asks for; those that inherit share their parent's.

    Strides become exactly five poolings and the patch a multiple of them.
    """
    demands = {}
    for name, configuration in draft["configurations"].items():
        if "inherits_from" in configuration:
            continue
        strides = fit_strides(configuration["architecture"]["arch_kwargs"]["strides"])
        demands[name] = Demand(
            configuration=name,
            patch=widen_lone_voxel(round_patch_up(configuration["patch_size"], strides), strides),
            batch=int(configuration["batch_size"]),
            strides=strides,
            spacing_mm=tuple(float(step) for step in configuration["spacing"]),
            median_shape=tuple(float(size) for size in configuration["median_image_size_in_voxels"]),
            num_channels=num_channels,
            num_classes=num_classes,
            batch_dice=bool(configuration["batch_dice"]),
        )
    return demands


def fit_cascades(
    model: MemoryModel, draft: Mapping[str, Any], fits: Mapping[str, Fit], *, num_labels: int, memory_gib: float
) -> dict[str, Fit]:
    """Fit the configurations that inherit from another: its patch, and a channel more per foreground label.

    Where that patch is too large, the fit that comes back has `fits` False.

    Args:
        model: the memory forecast.
        draft: nnU-Net's default plan.
        fits: what the other configurations got.
        num_labels: foreground labels; the mask of the previous stage is one channel for each.
        memory_gib: GPU memory.
    """
    cascades = {}
    for name, configuration in draft["configurations"].items():
        parent = fits.get(configuration.get("inherits_from", ""))
        if parent is None:
            continue
        extra = num_labels if configuration.get("previous_stage") else 0
        demand = replace(
            parent.demand,
            configuration=name,
            patch=parent.patch,
            strides=parent.strides,
            num_channels=parent.demand.num_channels + extra,
            num_mask_channels=extra,
            has_fixed_patch=True,
        )
        cascades[name] = fit_configuration(model, demand, parent.scale, memory_gib)
    return cascades


def build_plan(
    draft: Mapping[str, Any], fits: Mapping[str, Fit], *, plan_name: str, identifiers: Mapping[str, str]
) -> dict[str, Any]:
    """Put a scale's network, patch and batch into a copy of nnU-Net's draft.

    Args:
        draft: nnU-Net's default plan.
        fits: what each configuration got, by name.
        plan_name: name of the new plan.
        identifiers: data identifier of each configuration.
    """
    plan: dict[str, Any] = copy.deepcopy(dict(draft))
    plan["plans_name"] = plan_name
    for name, fit in fits.items():
        configuration = plan["configurations"][name]
        configuration["data_identifier"] = identifiers[name]
        configuration["patch_size"] = list(fit.patch)
        configuration["batch_size"] = fit.batch
        configuration["architecture"] = build_architecture(fit)
    return plan


def build_architecture(fit: Fit) -> dict[str, Any]:
    """Return the `architecture` block: nnU-Net imports the class and hands it the arguments."""
    spec = SCALES[fit.scale]
    return {
        "network_class_name": NETWORK_CLASS,
        "arch_kwargs": {
            "strides": [list(stride) for stride in fit.strides],
            "features_per_stage": spec.features_per_stage,
            "n_blocks_per_stage": spec.n_blocks_per_stage,
            "conv_op": f"{len(fit.patch)}d",
        },
        "_kw_requires_import": [],
    }


def add_story(
    plan: dict[str, Any],
    *,
    choice: ScaleChoice,
    budget: Budget,
    start: PretrainedStart | None,
    forecasts: Sequence[ConfigurationForecast],
    forecast_status: str,
) -> None:
    """Add our own block: what was chosen, for which memory and why. nnU-Net ignores it."""
    plan[STU_KEY] = {
        "schema": PLAN_SCHEMA,
        "version": stu_pipeline.__version__,
        "scale": choice.scale,
        "gpu_memory_gib": budget.memory_gib,
        "gpu_memory_source": budget.source,
        "reason": choice.reason,
        "alternatives": list(choice.alternatives),
        **({} if start is None else {PRETRAINED_KEY: start.to_json()}),
        **({} if (geometry := budget.geometry.to_json()) is None else {GEOMETRY_KEY: geometry}),
        EXECUTION_KEY: {item.name: item.execution.to_json() for item in forecasts},
        "decisions": {item.name: list(item.decisions) for item in forecasts},
        "forecast": _describe_forecasts(forecasts),
        "forecast_status": forecast_status,
    }


def keep_custom_configurations(plan: dict[str, Any], existing: Mapping[str, Any] | None) -> dict[str, Any]:
    """Carry over configurations that a user added to an existing plan under names of their own."""
    for name, configuration in (existing or {}).get("configurations", {}).items():
        if name not in PLANNED_NAMES and name not in plan["configurations"]:
            plan["configurations"][name] = copy.deepcopy(configuration)
    return plan


def replace_forecasts(plan: Mapping[str, Any], forecasts: Sequence[ConfigurationForecast]) -> dict[str, Any]:
    """Return a plan with other forecasts in our block."""
    return {**plan, STU_KEY: {**plan[STU_KEY], "forecast": _describe_forecasts(forecasts)}}


def is_same_plan(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Compare two plans without our own block, which tells a story and decides the scale and how steps run."""
    return is_same_recipe(first, second) and _list_executions(first) == _list_executions(second)


def is_same_recipe(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Compare what decides the results of a training, its first weights too: all but how steps run.

    How steps run counts where an older plan splits batch Dice. A plan that differs from another only in this can go
    on with its trainings.
    """
    scales = [(plan.get(STU_KEY) or {}).get("scale") for plan in (first, second)]
    bodies = [{key: value for key, value in plan.items() if key != STU_KEY} for plan in (first, second)]
    scopes = [
        {
            name: item.micro_batch
            for name, item in _list_executions(plan).items()
            if item is not None and item.batch_dice_scope == "micro-batch"
        }
        for plan in (first, second)
    ]
    same = scales[0] == scales[1] and bodies[0] == bodies[1] and scopes[0] == scopes[1]
    return same and is_start_kept(first, second)


def _list_executions(plan: Mapping[str, Any]) -> dict[str, Execution | None]:
    """Return how each configuration runs; the same for a plan that says nothing and one that says 'at once'."""
    configurations = plan.get("configurations", {})
    executions: dict[str, Execution | None] = {}
    for name in configurations:
        if "batch_size" in resolve_configuration(configurations, name):
            executions[name] = _find_or_none(plan.get(STU_KEY), configurations, name)
    return executions


def _find_or_none(story: Any, configurations: Mapping[str, Any], name: str) -> Execution | None:
    try:
        return find_execution(story, configurations, name)
    except ValueError:  # edited by hand; it equals nothing that is planned, so planning again mends it
        return None


def _describe_forecasts(forecasts: Sequence[ConfigurationForecast]) -> dict[str, Any]:
    return {
        item.name: {
            "num_parameters": item.num_parameters,
            **{name: getattr(item, name) for name in item.provenance},
            "device": item.device,
            "provenance": dict(item.provenance),
        }
        for item in forecasts
    }
