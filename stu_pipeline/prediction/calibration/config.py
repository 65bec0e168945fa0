"""What `calibrate()` takes and what it returns. Light: the command line imports it for its defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stu_pipeline.errors import UsageError
from stu_pipeline.prediction.config import TTA_CHOICES


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateConfig:
    """One calibration of a model folder on its own cross-validation."""

    model: Path
    """A model folder with at least one finished fold and its validation."""
    dataset: str | None = None
    """Id, name or path of the dataset it was trained on; None takes the name of the folder above the model."""
    tta: Literal["full", "auto", "none"] = "full"
    """As `stu predict` will be run: mirrored copies change the probabilities."""
    step: float = 0.5
    """Distance of two tiles as a share of the patch."""
    device: str = "auto"
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    error_rate: float = 0.1
    """The share of new masks that may be worse than their bound, and of accepted ones that may be too bad."""
    accept_dice: float | None = None
    """What every label of an accepted mask must reach; None is 0.1 below what the label usually reaches."""

    quality: bool = True
    """Whether to learn what to expect of a mask."""
    postprocessing: bool = True
    """Whether to learn how to clean up masks."""
    num_workers: int = 0
    """Processes that read masks to learn how to clean them up; 0 reads them in the main one."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.tta not in TTA_CHOICES:
            raise UsageError(f"unknown tta '{self.tta}', expected one of: {', '.join(TTA_CHOICES)}")
        if not 0 < self.step <= 1:
            raise UsageError(f"step must be above 0 and at most 1, got '{self.step}'")
        if not 0 < self.error_rate < 1:
            raise UsageError(f"error_rate must be above 0 and below 1, got '{self.error_rate}'")
        if self.accept_dice is not None and not 0 <= self.accept_dice <= 1:
            raise UsageError(f"accept_dice must be from 0 to 1, got '{self.accept_dice}'")
        if not (self.quality or self.postprocessing):
            raise UsageError("nothing to learn: both quality and post-processing are switched off")
        if self.num_workers < 0:
            raise UsageError(f"num_workers must be at least 0, got '{self.num_workers}'")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateResult:
    """What a calibration learned."""

    model: Path
    folds: tuple[int, ...]
    num_cases: int
    skipped: tuple[str, ...]
    """One line per validation case that could not be used."""
    quality_file: Path | None
    quality: dict[str, Any] | None
    """The content of `quality.json`; under `evaluation`: `is_useful`, the gain, and the numbers per label."""
    postprocessing_file: Path | None
    postprocessing: dict[str, Any] | None
    """The content of `postprocessing.json`."""
    seconds: float
