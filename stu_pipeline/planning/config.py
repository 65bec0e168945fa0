"""What `plan()` is asked for and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stu_pipeline.errors import UsageError
from stu_pipeline.networks.scales import Scale, parse_scale
from stu_pipeline.planfile import require_plan_name

if TYPE_CHECKING:
    from stu_pipeline.planning.scale_choice import ScaleChoice

AUTO = "auto"
Action = Literal["written", "replaced", "unchanged", "dry run"]
MemorySource = Literal["given", "plan", "detected", "default"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """One planning of one dataset."""

    dataset: str
    """Id, name or path."""
    scale: str = AUTO
    """'auto', or S, B, L, H (also small, base, large, huge)."""
    gpu_memory_gib: float | None = None
    """Memory to plan for; None takes that of an existing plan, else the GPU that is there, else 8."""
    pretrained: Path | None = None
    """Weights the training will start from; decides the automatic scale."""
    plan_name: str | None = None
    """None names the plan by its scale, for example 'stuBPlans'. An existing plan of that name keeps its scale."""
    configurations: tuple[str, ...] = ()
    """Configurations that the plan must have; empty asks for none in particular."""
    dry_run: bool = False
    """Write nothing."""
    force: bool = False
    """Replace a plan that trainings were made with."""
    num_workers: int | None = None
    """Processes that read cases; None chooses by cores and data size."""

    def __post_init__(self) -> None:  # noqa: D105
        if self.scale.strip().lower() != AUTO:
            parse_scale(self.scale)
        if self.gpu_memory_gib is not None and not 0 < self.gpu_memory_gib < float("inf"):
            raise UsageError(f"GPU memory must be more than 0 GiB, got {self.gpu_memory_gib:g}", hint="--gpu-memory 24")
        if self.num_workers is not None and self.num_workers < 0:
            raise UsageError(f"workers must be at least 0, got {self.num_workers}")
        if self.pretrained is not None and not self.pretrained.is_file():
            raise UsageError(f"weights '{self.pretrained.name}' not found", where=self.pretrained.parent)
        if self.plan_name is not None:
            require_plan_name(self.plan_name)

    @property
    def wanted_scale(self) -> Scale | None:
        """The scale asked for, or None for 'auto'."""
        return None if self.scale.strip().lower() == AUTO else parse_scale(self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationForecast:
    """What one configuration of the plan is and what it will use."""

    name: str
    patch: tuple[int, ...]
    batch: int
    spacing_mm: tuple[float, ...]
    num_parameters: int
    vram_gib: float
    """Forecast of one training step."""
    data_identifier: str
    disk_gib: float
    """Upper estimate of the preprocessed data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult:
    """What was planned, why, and where it is."""

    dataset: str
    num_cases: int
    plan_name: str
    plan_file: Path
    action: Action
    choice: ScaleChoice
    gpu_memory_gib: float
    gpu_memory_source: MemorySource
    configurations: tuple[ConfigurationForecast, ...]
    default_configuration: str
    forecast_status: str
    """How far the memory forecast can be trusted."""
    raw_folder: Path
    preprocessed_folder: Path
    results_folder: Path

    @property
    def scale(self) -> Scale:
        """The chosen scale."""
        return self.choice.scale
