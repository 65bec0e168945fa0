"""What converting, exporting and installing take and return. Light: the command line imports it for its defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stu_pipeline.errors import UsageError
from stu_pipeline.workspace import split_dataset_name

PackageForm = Literal["safetensors", "nnunet-zip", "published"]
FORM_ENDINGS: dict[PackageForm, str] = {"safetensors": ".safetensors", "nnunet-zip": ".zip", "published": ".model"}
Checkpoint = Literal["final", "best", "latest", "ema"]
Fold = int | Literal["all"]
MirrorChoice = Literal["none", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertConfig:
    """One file of weights that becomes a model folder."""

    file: Path
    sidecar: Path | None = None
    """The `.pkl` of a released `.model`; None takes the one beside it, where there is one."""
    dataset_name: str | None = None
    """Under which dataset of the results the model goes; None takes what the file says, else a name of ours."""
    output: Path | None = None
    """The model folder itself, instead of a place among the results."""
    plan_name: str | None = None
    """None makes it of the scale: `stuSPublishedPlans`."""
    labels: Path | None = None
    """A `dataset.json`, or a JSON list or table of the label names in the order of the outputs."""
    strides: tuple[tuple[int, ...], ...] | None = None
    """Declared by the user: six with the leading ones, or the five after them."""
    published: bool = False
    """Declares that these are the released weights, of which everything is known."""
    mirror: MirrorChoice = "none"
    """Which mirrored copies a prediction averages by default; the released weights were trained with all."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.output is not None and self.dataset_name is not None:
            raise UsageError("give either a dataset name or an output folder, not both")
        if self.dataset_name is not None and split_dataset_name(self.dataset_name) is None:
            raise UsageError(
                f"'{self.dataset_name}' is not a dataset name, expected 'DatasetNNN_Name'",
                hint="--dataset-name Dataset801_TotalSegmentator",
            )
        if self.mirror not in ("none", "all"):
            raise UsageError(f"mirror must be none or all, got '{self.mirror}'")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertResult:
    """What a conversion made."""

    model_folder: Path
    scale: str
    num_labels: int
    """Outputs of the network, background included."""
    strides: tuple[tuple[int, ...], ...]
    facts_source: str
    """Where strides, spacing and names come from."""
    notes: tuple[str, ...] = ()
    """What the user should know about predicting with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """One model folder, or one file of weights, that is written for others."""

    source: Path
    """A model folder, or a `.model`, `.pth` or `.safetensors`."""
    output: Path
    form: PackageForm | None = None
    """None takes what the ending of `output` says."""
    folds: tuple[Fold, ...] | None = None
    """None takes all that have the checkpoint; a file of weights holds one."""
    checkpoint: Checkpoint = "final"
    keep_optimizer: bool = False
    """Keep the momentum, with which a training can go on; it doubles the size. In nnU-Net's zip only."""
    sidecar: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.form is not None and self.form not in FORM_ENDINGS:
            raise UsageError(f"unknown form '{self.form}', expected one of: {', '.join(FORM_ENDINGS)}")
        if self.keep_optimizer and self.chosen_form != "nnunet-zip":
            raise UsageError("only nnU-Net's zip keeps the optimizer", hint="--form nnunet-zip")
        if not self.output.name.endswith(FORM_ENDINGS[self.chosen_form]):
            ending = FORM_ENDINGS[self.chosen_form]
            raise UsageError(
                f"form '{self.chosen_form}' is written to a '{ending}', got '{self.output.name}'",
                hint=f"-o {self.output.with_suffix(ending)}",
            )

    @property
    def chosen_form(self) -> PackageForm:
        """The form, or what the ending of the output says."""
        if self.form is not None:
            return self.form
        for form, ending in FORM_ENDINGS.items():
            if self.output.name.endswith(ending):
                return form
        raise UsageError(
            f"'{self.output.name}' does not say a form, expected one of: {', '.join(FORM_ENDINGS.values())}",
            hint="--form safetensors",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What an export wrote."""

    files: tuple[Path, ...]
    form: PackageForm
    folds: tuple[Fold, ...]
    sha256: dict[str, str] = field(default_factory=dict)
    """By file name."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallConfig:
    """One package that goes among the results."""

    file: Path
    """nnU-Net's zip, or a `.safetensors` with its `.json`."""
    results: Path | None = None
    """None takes the workspace's."""
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallResult:
    """What an installation put in place."""

    models: tuple[Path, ...]
    num_checkpoints: int
    num_bytes: int
    is_proven: bool
    """Whether the package listed the hashes of its files, and they fit."""
    left_out: tuple[str, ...] = ()
    """Files of the package that no prediction needs, or that nothing here opens."""
