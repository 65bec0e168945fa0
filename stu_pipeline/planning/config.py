"""What `plan()` is asked for and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.networks.scales import Scale, parse_scale
from stu_pipeline.planfile import require_plan_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stu_pipeline.plan_execution import Execution
    from stu_pipeline.plan_pretrained import PretrainedStart
    from stu_pipeline.planning.memory import Provenance
    from stu_pipeline.planning.scale_choice import ScaleChoice

AUTO = "auto"
Action = Literal["written", "replaced", "unchanged", "dry run"]
MemorySource = Literal["given", "plan", "detected", "default"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """One planning of one dataset."""

    dataset: str = ""
    """Id, name or path: nnU-Net v2 raw, Decathlon or nnU-Net v1. Empty with `images` and with `union`."""
    union: tuple[str, ...] = ()
    """Datasets to make one of: ids, names or paths; 'DATASET:0' takes that channel only."""
    union_labels: Path | None = None
    """Which labels of the datasets are one label of the union; None goes by their names."""
    keep_labels_of: Path | None = None
    """Weights, or a model folder, whose labels come first in the union, in their order."""
    keep_channel_names: bool = False
    """Name the channels of the union as its datasets do, so that CT is normalised as CT; else z-score per image."""
    images: Path | None = None
    """Folder of images to import, with `labels` and `dataset_name`."""
    labels: Path | None = None
    """Folder of label maps that belong to `images`."""
    dataset_name: str | None = None
    """Name for an imported dataset or a union: `Name` or `DatasetNNN_Name`."""
    channels: str = ""
    """Names of the channels of imported images, for example 'CT' or 'T1,T2'; empty calls them 'image'."""
    scale: str = AUTO
    """'auto', or S, B, L, H (also small, base, large, huge)."""
    gpu_memory_gib: float | None = None
    """Memory to plan for; None takes that of an existing plan, else the GPU that is there, else 8."""
    pretrained: Path | None = None
    """Weights the training will start from; the plan is made for them, in their scale."""
    sidecar: Path | None = None
    """What was stored beside `pretrained` on its training; None takes the file that lies beside it."""
    keep_geometry: bool = False
    """Plan with the spacing, patch and strides of the pre-training instead of those that suit the dataset."""
    any_normalisation: bool = False
    """Keep the plan's own normalisation although the weights saw another."""
    spacing_mm: tuple[float, ...] | None = None
    """Target spacing (z, y, x), or (y, x) of flat images, axes as in the images. None takes that of an existing plan
    of the name, else chooses; empty chooses anew."""
    patch_voxels: tuple[int, ...] | None = None
    """Patch of 3d_fullres (z, y, x), or of 2d (y, x), rounded up to what the strides need. None and empty as above."""
    plan_name: str | None = None
    """None names the plan by its scale, for example 'stuBPlans', or 'stuBPretrainedPlans' with `pretrained`. An
    existing plan of that name keeps its scale and its weights."""
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
        if self.plan_name is not None:
            require_plan_name(self.plan_name)
        self._check_import()
        self._check_union()
        self._check_weights()
        check_axes("spacing", self.spacing_mm, "--spacing 1.5,1.5,1.5")
        check_axes("patch", self.patch_voxels, "--patch 128,128,128")

    def _check_import(self) -> None:
        has_pair = self.images is not None and self.labels is not None and self.dataset_name is not None
        if (self.images is not None or self.labels is not None) and not has_pair:
            raise UsageError(
                "a folder pair needs images, labels and a name",
                hint="stu plan --images FOLDER --labels FOLDER --dataset-name NAME",
            )
        num_sources = has_pair + bool(self.dataset) + bool(self.union)
        if num_sources != 1:
            raise UsageError(
                "give a dataset, or a folder pair, not both" if num_sources else "no dataset given",
                hint="stu plan DATASET, or stu plan --images FOLDER --labels FOLDER --dataset-name NAME",
            )
        if self.channels and not has_pair:
            raise UsageError("channel names are for a folder pair; a dataset names its own in dataset.json")

    def _check_union(self) -> None:
        has_union_flags = self.union_labels is not None or self.keep_labels_of is not None or self.keep_channel_names
        if has_union_flags and not self.union:
            raise UsageError(
                "a mapping of labels, labels to keep and channel names to keep are for a union of datasets",
                hint="stu plan A B --union --union-labels FILE",
            )

    def _check_weights(self) -> None:
        if self.pretrained is None:
            if self.sidecar is not None or self.keep_geometry or self.any_normalisation:
                raise UsageError(
                    "a side-car, the geometry and the normalisation of a pre-training need its weights",
                    hint="stu plan DATASET --pretrained FILE",
                )
            return
        if not self.pretrained.is_file():
            raise ModelError(f"weights '{self.pretrained.name}' not found", where=self.pretrained.parent)
        if self.keep_geometry and (self.spacing_mm or self.patch_voxels):
            raise UsageError(
                "--pretrained-geometry takes spacing and patch of the pre-training, so none can be given",
                hint="leave out --spacing and --patch, or --pretrained-geometry",
            )

    @property
    def wanted_scale(self) -> Scale | None:
        """The scale asked for, or None for 'auto'."""
        return None if self.scale.strip().lower() == AUTO else parse_scale(self.scale)


def check_axes(what: str, values: Sequence[float] | None, example: str) -> None:
    """Refuse a spacing or patch that is not two or three positive numbers; None and empty pass.

    Raises:
        UsageError: it is something else.
    """
    if values and (len(values) not in (2, 3) or not all(0 < value < float("inf") for value in values)):
        text = ",".join(f"{value:g}" for value in values)
        raise UsageError(f"{what} must be two or three positive numbers (z,y,x), got '{text}'", hint=example)


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
    pretrained: PretrainedStart | None = None
    """The weights it was made for, and what was known of their training."""

    @property
    def scale(self) -> Scale:
        """The chosen scale."""
        return self.choice.scale
