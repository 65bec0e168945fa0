"""What `plan()` is asked for and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stu_pipeline.errors import UsageError
from stu_pipeline.networks.scales import Scale, parse_scale
from stu_pipeline.planfile import require_plan_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stu_pipeline.plan_execution import Execution
    from stu_pipeline.planning.memory import Provenance
    from stu_pipeline.planning.scale_choice import ScaleChoice

AUTO = "auto"
Action = Literal["written", "replaced", "unchanged", "dry run"]
MemorySource = Literal["given", "plan", "detected", "default"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """One planning of one dataset."""

    dataset: str = ""
    """Id, name or path: nnU-Net v2 raw, Medical Segmentation Decathlon or nnU-Net v1. Empty with `images`."""
    images: Path | None = None
    """Folder of images to import, with `labels` and `dataset_name`."""
    labels: Path | None = None
    """Folder of label maps that belong to `images`."""
    dataset_name: str | None = None
    """Name for an imported dataset: `Name` or `DatasetNNN_Name`."""
    channels: str = ""
    """Names of the channels of imported images, for example 'CT' or 'T1,T2'; empty calls them 'image'."""
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
    num_folds: int | None = None
    """Folds of the cross-validation; None makes nnU-Net's five."""
    group_by: str | None = None
    """Regular expression for the patient in a case id, or a CSV file with the columns case and group."""
    stratify: bool = False
    """Spread rare labels over the folds."""
    probe: bool = False
    """Measure training steps of the plan on this machine's device."""
    dry_run: bool = False
    """Write nothing."""
    force: bool = False
    """Replace a plan that trainings were made with, and folds that nobody trained."""
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
        self._check_import()

    def _check_import(self) -> None:
        has_pair = self.images is not None and self.labels is not None and self.dataset_name is not None
        if (self.images is not None or self.labels is not None) and not has_pair:
            raise UsageError(
                "a folder pair needs images, labels and a name",
                hint="stu plan --images FOLDER --labels FOLDER --dataset-name NAME",
            )
        if has_pair == bool(self.dataset):
            raise UsageError(
                "give a dataset, or a folder pair, not both" if self.dataset else "no dataset given",
                hint="stu plan DATASET, or stu plan --images FOLDER --labels FOLDER --dataset-name NAME",
            )
        if self.channels and not has_pair:
            raise UsageError("channel names are for a folder pair; a dataset names its own in dataset.json")

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
    """Samples per optimizer step, nnU-Net's."""
    spacing_mm: tuple[float, ...]
    num_parameters: int
    execution: Execution
    """How a step runs on the GPU: micro-batch, activation checkpointing, over what batch Dice is summed."""
    decisions: tuple[str, ...]
    """How scale, patch, batch, checkpointing and accumulation were decided, a line each."""
    vram_gib: float
    """Peak of one training step."""
    host_ram_gib: float
    """Of a training: its process, its loader processes and the batches between them."""
    seconds_per_epoch: float
    """On `device`."""
    hours_total: float
    """Of one fold with nnU-Net's number of epochs, on `device`."""
    data_identifier: str
    disk_gib: float
    """Upper estimate of the preprocessed data."""
    checkpoint_gib: float
    """The checkpoint files of one fold at their most."""
    predict_ram_gib: float
    """Of predicting the median case with one fold."""
    predict_seconds: float
    """Of the network on the median case, one fold with all mirrorings, on `device`."""
    device: str
    """What the times are for."""
    provenance: Mapping[str, Provenance]
    """Where each number comes from: 'published', 'measured' or 'inferred'."""


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
    splits: str
    """How the folds came about."""
    num_folds: int
    raw_folder: Path
    preprocessed_folder: Path
    results_folder: Path

    @property
    def scale(self) -> Scale:
        """The chosen scale."""
        return self.choice.scale
