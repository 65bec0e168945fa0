"""What `predict()` takes and what it returns. Light: the command line imports it for its defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stu_pipeline.errors import UsageError

Checkpoint = Literal["final", "best", "latest", "ema"]
Folds = Literal["auto"] | tuple[int | Literal["all"], ...]

CHECKPOINTS = ("final", "best", "latest", "ema")
TTA_CHOICES = ("full", "auto", "none")
EFFORTS = ("full", "elastic")
DEVICES = ("auto", "cuda", "cpu", "mps")
PRECISIONS = ("auto", "bf16", "fp16", "fp32")
PROBABILITIES = ("none", "npz", "zarr")
PROBABILITY_BITS = (8, 16)
POSTPROCESSING = ("auto", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictConfig:
    """One prediction of a file or a folder with one model or an ensemble."""

    input: Path
    """A file or a folder of volumes."""
    output: Path
    """A folder; for one input file also a file name."""
    models: tuple[Path, ...]
    """Model folders. Several are one ensemble: logits are averaged where the models share a grid, else
    probabilities on the image's grid."""
    folds: Folds = "auto"
    """Which folds of each model; `auto` takes the finished ones."""
    checkpoint: Checkpoint = "final"
    """`best` or `latest` also take folds that are not finished; they are named."""
    configuration: str | None = None
    """The configuration the models must be of; None takes them as they are."""
    tta: Literal["full", "auto", "none"] = "full"
    """Whether to average mirrored copies, along the axes that the training mirrored; `auto` does so only on tiles
    where the plain copy is unsure."""
    effort: Literal["full", "elastic"] = "full"
    """`elastic` runs the smallest model everywhere and the larger ones only on tiles where it is unsure."""
    model_weights: tuple[float, ...] | None = None
    """One weight per model folder; None weighs them equally."""
    step: float = 0.5
    """Distance of two tiles as a share of the patch."""
    device: str = "auto"
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """`auto` is fp16 on a GPU, as nnU-Net's, bf16 on a CPU that computes in it, else fp32."""
    gpus: int | None = None
    """GPUs that share the cases, one process each; None: this process alone."""
    max_ram_gib: float | None = None
    """The RAM that may be used; a case that cannot keep to it is refused before any work on it."""
    probabilities: Literal["none", "npz", "zarr"] = "none"
    """`npz` also writes probabilities as `nnUNetv2_ensemble` reads them, `zarr` in chunks, quantised."""
    probability_bits: Literal[8, 16] = 8
    """Of a probability in a zarr."""
    per_label_files: bool = False
    """Also one binary mask per label, in a folder per case."""
    dicom_seg: bool = False
    """Also a DICOM SEG per case; the input must be DICOM series."""
    postprocessing: Literal["auto", "none"] = "auto"
    """Whether to apply what `stu calibrate` found to help."""
    overwrite: bool = False
    """Predict again what is there already."""
    verify: bool = False
    """Read and hash all inputs of finished cases again, instead of trusting unchanged files."""
    dry_run: bool = False
    """Only say what would be done and what it would take."""
    report: Path | None = None
    """A further place for the report; the output folder always has `predictions.json`."""
    num_workers: int | None = None
    """0 prepares cases in the main thread; anything else prepares the next case while one is predicted."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if not self.models:
            raise UsageError("no model given", hint="give a model folder with -m, or a dataset with -d")
        _require_choice("checkpoint", self.checkpoint, CHECKPOINTS)
        _require_choice("tta", self.tta, TTA_CHOICES)
        _require_choice("precision", self.precision, PRECISIONS)
        _require_choice("effort", self.effort, EFFORTS)
        _require_choice("probabilities", self.probabilities, PROBABILITIES)
        _require_choice("postprocessing", self.postprocessing, POSTPROCESSING)
        if self.probability_bits not in PROBABILITY_BITS:
            raise UsageError(f"probabilities have 8 or 16 bits, got '{self.probability_bits}'")
        self._require_sane_limits()
        if self.device not in DEVICES and not self.device.startswith("cuda:"):
            _require_choice("device", self.device, DEVICES)
        if self.folds != "auto" and not self.folds:
            raise UsageError("no folds given", hint="--folds auto, or for example --folds 0,1,2")
        if not 0 < self.step <= 1:
            raise UsageError(f"step must be above 0 and at most 1, got '{self.step}'")
        _require_weights(self.model_weights, len(self.models))

    def _require_sane_limits(self) -> None:
        if self.num_workers is not None and self.num_workers < 0:
            raise UsageError(f"num_workers must be at least 0, got '{self.num_workers}'")
        if self.gpus is not None and self.gpus < 1:
            raise UsageError(f"gpus must be at least 1, got '{self.gpus}'")
        if (self.gpus or 1) > 1 and self.device not in ("auto", "cuda"):
            raise UsageError(
                f"{self.gpus} GPUs and device '{self.device}' contradict each other",
                hint="leave out --gpus or --device",
            )
        if self.max_ram_gib is not None and not (math.isfinite(self.max_ram_gib) and self.max_ram_gib > 0):
            raise UsageError(f"max-ram must be a number of GiB above 0, got '{self.max_ram_gib}'")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseReport:
    """What became of one case. Stages send it as an event when the case is over."""

    case: str
    status: Literal["done", "skipped", "failed"]
    output: Path | None = None
    seconds: float = 0.0
    volumes_ml: dict[str, float] = field(default_factory=dict)
    """Per label, in millilitres; empty for flat images."""
    warnings: tuple[str, ...] = ()
    """What a person should look at: an empty mask, a structure cut by the border, an unusual image."""
    notes: tuple[str, ...] = ()
    """What the computation did: copies left out, memory given up, voxels cleaned away."""
    peak_memory_gib: float | None = None
    """Of this process, until the case was done."""
    forward_passes: int = 0
    """Runs of a network on one copy of one tile."""
    quality: dict[str, Any] | None = None
    """Expected Dice by label, and what it rests on; None without `stu calibrate`."""
    outputs: dict[str, str] = field(default_factory=dict)
    """Files beside the mask, relative to the output folder, with their SHA-256."""
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictResult:
    """What a prediction made."""

    output: Path
    cases: tuple[CaseReport, ...]
    models: tuple[str, ...]
    """One line per model: folder, folds and checkpoint."""
    report: Path | None
    """`predictions.json`; None when one file was asked for and no report."""
    seconds: float
    forecast: dict[str, Any] | None = None
    """What the run was expected to take, for `--dry-run`."""

    @property
    def num_done(self) -> int:
        """Cases predicted now."""
        return sum(case.status == "done" for case in self.cases)

    @property
    def num_skipped(self) -> int:
        """Cases that were proven to be there already."""
        return sum(case.status == "skipped" for case in self.cases)


def _require_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"unknown {name} '{value}', expected one of: {', '.join(known)}")


def _require_weights(weights: tuple[float, ...] | None, num_models: int) -> None:
    if weights is None:
        return
    if len(weights) != num_models:
        raise UsageError(f"{len(weights)} model weights for {num_models} models", hint="give one weight per -m")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or sum(weights) <= 0:
        raise UsageError(f"model weights must be at least 0 and not all 0, got '{', '.join(map(str, weights))}'")
