"""The folders and files of a study, and its own workspace for nnU-Net's folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.workspace import DatasetPaths, RunPaths, find_dataset, fold_folder


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """Everything a study writes; nothing lies elsewhere."""

    root: Path

    def cell_record(self, cell: str) -> Path:
        """`cells/<cell>.json`: how a cell stands, and what it came to."""
        return self.root / "cells" / f"{cell}.json"

    def cell_lock(self, cell: str) -> Path:
        """Held while a cell runs."""
        return self.root / "cells" / f".{cell}.lock"

    def cell_summary(self, cell: str) -> Path:
        """`scores/<cell>.json`: the scores of its validation cases, in nnU-Net's schema; `stu compare` reads it."""
        return self.root / "scores" / f"{cell}.json"

    def splits(self, dataset: str) -> Path:
        """`splits/<dataset>.json`: which fold of `splits_final.json` is which split of the study."""
        return self.root / "splits" / f"{dataset}.json"

    def prepared(self, dataset: str, plan_name: str) -> Path:
        """`prepared/<dataset>.<plan>.json`: what a plan was made from, and that its data are there."""
        return self.root / "prepared" / f"{dataset}.{plan_name}.json"

    def prepare_lock(self, dataset: str) -> Path:
        """Held while a dataset is split, planned and preprocessed."""
        return self.root / "prepared" / f".{dataset}.lock"

    @property
    def lock(self) -> Path:
        """Held by the process that runs the whole study."""
        return self.root / ".study.lock"

    @property
    def results(self) -> Path:
        """`results/`: rows, tables and the page."""
        return self.root / "results"

    def find_dataset(self, raw: Path) -> DatasetPaths:
        """Return the paths of a dataset: raw data where they are, the rest in the study. Call it in its workspace."""
        return find_dataset(str(raw))


def find_run(dataset: DatasetPaths, plan_name: str, configuration: str, fold: int) -> RunPaths:
    """Return the files of the training of one cell."""
    return RunPaths(fold_folder(dataset.model_folder(plan_name, configuration), fold))
