"""What to plan for: the GPU memory and the scale that were asked for, were planned before, or are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stu_pipeline.networks.scales import SCALES, Scale
from stu_pipeline.planfile import STU_KEY
from stu_pipeline.planning.config import MemorySource, PlanConfig
from stu_pipeline.planning.knowledge import read_knowledge
from stu_pipeline.planning.memory import BYTES_PER_GIB
from stu_pipeline.planning.writing import read_existing
from stu_pipeline.workspace import DatasetPaths


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The memory to plan for and where the number comes from; the scale that is fixed, if any."""

    memory_gib: float
    source: MemorySource
    scale: Scale | None


def choose_budget(dataset: DatasetPaths, config: PlanConfig) -> Budget:
    """Choose memory and scale so that planning again, on another machine too, continues the same plan.

    What is asked for wins. Else an existing plan of the name keeps its scale (when it was named) and the
    memory it was made for, unless that was only a default and a GPU is there now.

    Raises:
        UsageError: a plan of that name exists and was not made by `stu`.
    """
    story = _read_story(dataset, config)
    scale = config.wanted_scale
    if scale is None and config.plan_name is not None:
        scale = story.get("scale")
    if config.gpu_memory_gib is not None:
        return Budget(memory_gib=config.gpu_memory_gib, source="given", scale=scale)
    planned = story.get("gpu_memory_gib")
    if isinstance(planned, int | float) and story.get("gpu_memory_source") != "default":
        return Budget(memory_gib=float(planned), source="plan", scale=scale)
    detected = detect_gpu_memory_gib()
    if detected is not None:
        return Budget(memory_gib=detected, source="detected", scale=scale)
    default = float(read_knowledge("scale_choice.json")["default_gpu_memory_gib"])
    return Budget(memory_gib=default, source="default", scale=scale)


def detect_gpu_memory_gib() -> float | None:
    """Return the memory of the smallest visible CUDA device in GiB, or None without one.

    The whole memory counts, not what other programs leave free right now.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    sizes = [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
    return min(sizes) / BYTES_PER_GIB if sizes else None


def _read_story(dataset: DatasetPaths, config: PlanConfig) -> dict[str, Any]:
    name = config.plan_name or (SCALES[config.wanted_scale].plan_name if config.wanted_scale else None)
    existing = read_existing(dataset, name) if name else None
    story: dict[str, Any] = (existing or {}).get(STU_KEY) or {}
    return story
