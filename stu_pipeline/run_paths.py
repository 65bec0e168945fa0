"""Paths of trainings: the files of one run, and the folders inside a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The files of one run (one fold), inside a model folder."""

    folder: Path

    @property
    def record(self) -> Path:
        """`run.json`: what was run."""
        return self.folder / "run.json"

    @property
    def log(self) -> Path:
        """`run.log`: everything, the engine's output included."""
        return self.folder / "run.log"

    @property
    def metrics(self) -> Path:
        """`metrics.jsonl`: one line per epoch."""
        return self.folder / "metrics.jsonl"

    @property
    def status(self) -> Path:
        """`status.json`: where the run stands, renewed every few seconds; `stu train --watch` reads it."""
        return self.folder / "status.json"

    @property
    def progress_picture(self) -> Path:
        """`progress.png`."""
        return self.folder / "progress.png"

    @property
    def lock(self) -> Path:
        """Held while a training writes here."""
        return self.folder / ".lock"

    @property
    def validation_summary(self) -> Path:
        """`validation/summary.json` of the final validation."""
        return self.folder / "validation" / "summary.json"

    @property
    def averaged_summary(self) -> Path:
        """`validation_ema/summary.json`: the same for averaged weights, where they are kept."""
        return self.folder / "validation_ema" / "summary.json"

    def checkpoint(self, kind: str) -> Path:
        """`checkpoint_<kind>.pth`, kind being `latest`, `best`, `final` or `ema`."""
        return self.folder / f"checkpoint_{kind}.pth"


def next_stage_folder(model_folder: Path, configuration: str) -> Path:
    """Where a low-resolution model leaves its predictions for the cascade's `configuration`."""
    return model_folder / "predicted_next_stage" / configuration


def cross_validation_summary(model_folder: Path, num_folds: int) -> Path:
    """The summary over all folds, named as nnU-Net names it."""
    folds = "_".join(str(fold) for fold in range(num_folds))
    return model_folder / f"crossval_results_folds_{folds}" / "summary.json"


def fold_folder(model_folder: Path, fold: int | str) -> Path:
    """The folder of one fold (`0`... or `all`) inside a model folder."""
    return model_folder / f"fold_{fold}"
