"""What to plan for: GPU memory, scale, weights and geometry that were asked for, were planned before, or are there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stu_pipeline.knowledge import read_knowledge
from stu_pipeline.networks.scales import SCALES, Scale
from stu_pipeline.plan_pretrained import PretrainedStart, pretrained_plan_name
from stu_pipeline.planfile import STU_KEY
from stu_pipeline.planning.config import MemorySource, PlanConfig
from stu_pipeline.planning.geometry import Geometry, choose_geometry
from stu_pipeline.planning.memory import BYTES_PER_GIB
from stu_pipeline.planning.pretrained import recall_start
from stu_pipeline.planning.writing import read_existing
from stu_pipeline.workspace import DatasetPaths


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The memory to plan for and where the number comes from; what else is fixed, if anything."""

    memory_gib: float
    source: MemorySource
    scale: Scale | None
    start: PretrainedStart | None = None
    """The weights to plan for; `scale` is theirs."""
    geometry: Geometry = field(default_factory=Geometry)
    plan_name: str | None = None
    """None names the plan by the scale that is chosen."""


def choose_budget(dataset: DatasetPaths, config: PlanConfig, start: PretrainedStart | None = None) -> Budget:
    """Choose memory, scale, weights and geometry so that planning again continues the same plan, elsewhere too.

    What is asked for wins. Else an existing plan of the name keeps its scale (when it was named), its weights, its
    geometry and the memory it was made for, unless that was only a default and a GPU is there now.

    Args:
        dataset: where the existing plan would be.
        config: what is asked for.
        start: the weights that are named now, as `read_start` reads them.

    Raises:
        UsageError: a plan of that name exists and was not made by `stu`.
        ModelError: weights, scale and existing plan contradict each other.
    """
    name = _name_plan(config, start)
    existing = read_existing(dataset, name) if name else None
    story: dict[str, Any] = (existing or {}).get(STU_KEY) or {}
    start = recall_start(start, story, config.wanted_scale)
    scale = config.wanted_scale
    if start is not None:
        scale = start.scale
    elif scale is None and config.plan_name is not None:
        scale = story.get("scale")
    memory_gib, source = _choose_memory(config, story)
    return Budget(
        memory_gib=memory_gib,
        source=source,
        scale=scale,
        start=start,
        geometry=choose_geometry(config, story, start),
        plan_name=name,
    )


def _name_plan(config: PlanConfig, start: PretrainedStart | None) -> str | None:
    if config.plan_name is not None:
        return config.plan_name
    if start is not None:
        return pretrained_plan_name(start.scale)
    return SCALES[config.wanted_scale].plan_name if config.wanted_scale else None


def _choose_memory(config: PlanConfig, story: dict[str, Any]) -> tuple[float, MemorySource]:
    if config.gpu_memory_gib is not None:
        return config.gpu_memory_gib, "given"
    planned = story.get("gpu_memory_gib")
    if isinstance(planned, int | float) and story.get("gpu_memory_source") != "default":
        return float(planned), "plan"
    detected = detect_gpu_memory_gib()
    if detected is not None:
        return detected, "detected"
    return float(read_knowledge("scale_choice.json")["default_gpu_memory_gib"]), "default"


def detect_gpu_memory_gib() -> float | None:
    """Return the memory of the smallest visible CUDA device in GiB, or None without one.

    The whole memory counts, not what other programs leave free right now.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    sizes = [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
    return min(sizes) / BYTES_PER_GIB if sizes else None
