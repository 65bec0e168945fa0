"""The cells of a study: dataset x scale x arm x split, with names that are fit for files and people."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from stu_pipeline.errors import UsageError
from stu_pipeline.networks.scales import Scale
from stu_pipeline.study.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitKey:
    """Which cases a cell trains and validates on, and its seed."""

    seed: int
    num_training_cases: int | None = None
    fold: int | None = None
    """Of a study over folds; None with a learning curve."""

    @property
    def name(self) -> str:
        """`n5.s0` for five cases and seed 0, `f2.s0` for fold 2."""
        place = f"f{self.fold}" if self.num_training_cases is None else f"n{self.num_training_cases}"
        return f"{place}.s{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training of a study."""

    dataset: str
    arm: str
    scale: Scale | None
    split: SplitKey

    @property
    def name(self) -> str:
        """`Dataset004_Hippocampus.scratch.S.n5.s0`; stock networks have no scale in it."""
        return ".".join(part for part in (self.dataset, self.arm, self.scale, self.split.name) if part)

    @property
    def plan_name(self) -> str:
        """The plan it trains: one per dataset, arm and scale."""
        return f"stu{self.scale}-{self.arm}" if self.scale else self.arm


def list_splits(manifest: Manifest) -> list[SplitKey]:
    """List the splits that every arm trains on, in the order of the manifest."""
    if manifest.curve is None:
        return [SplitKey(seed=seed, fold=fold) for fold in manifest.folds for seed in manifest.seeds]
    numbers = manifest.curve.num_training_cases
    return [SplitKey(seed=seed, num_training_cases=number) for number in numbers for seed in manifest.seeds]


def list_cells(manifest: Manifest) -> list[Cell]:
    """List every cell. What is compared stands together: all arms of a split, before the next split."""
    return [
        Cell(dataset=dataset.name, arm=arm.name, scale=scale, split=split)
        for dataset in manifest.datasets
        for split in list_splits(manifest)
        for arm in manifest.arms
        for scale in (manifest.scales if arm.is_stu else (None,))
    ]


def choose_cells(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """Choose the cells whose names fit one of the patterns (`*` and `?`); all without a pattern.

    Raises:
        UsageError: a pattern fits no cell.
    """
    for pattern in patterns:
        if not fnmatch.filter([cell.name for cell in cells], pattern):
            raise UsageError(
                f"no cell is named '{pattern}', the first of {len(cells)} is '{cells[0].name}'",
                hint="stu study MANIFEST --dry-run lists them",
            )
    return [
        cell for cell in cells if not patterns or any(fnmatch.fnmatchcase(cell.name, pattern) for pattern in patterns)
    ]
