"""The manifest of a study as a checked, typed view (docs/reference/study-manifest.md).

Reads: the TOML file and the `dataset.json` of every dataset it names.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.networks.scales import Scale
from stu_pipeline.study.fields import Fields

Kind = Literal["scratch", "pretrained", "stock", "resenc"]
KINDS: tuple[Kind, ...] = ("scratch", "pretrained", "stock", "resenc")
STU_KINDS = ("scratch", "pretrained")
TARGETS = ("lesion", "structure")
SIZE_BINS = ("S", "M", "L")
RESENC_PRESETS = ("M", "L", "XL")
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyDataset:
    """One dataset, and what groups it in the tables. What is empty is not known."""

    name: str
    raw: Path
    case_ids: tuple[str, ...]
    label_names: tuple[str, ...]
    """Foreground labels or regions, in the order of `dataset.json`."""
    modality: str
    region: str
    size: str
    """SegBook's bin: S up to 120 training cases, M up to 303, L above."""
    targets: dict[str, str]
    """Per label: `lesion` or `structure`."""
    seen: dict[str, bool]
    """Per label: whether the pre-training had it; a label that is not in here is decided by the label list."""
    source: str = ""
    licence: str = ""
    splits: Path | None = None
    """A `splits_final.json` of the user's own, for studies over folds."""
    group_by: str | None = None
    """Regular expression or CSV file for the patient of a case: a patient is never on both sides of a split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to start: what differs between the columns of the tables."""

    name: str
    kind: Kind
    weights: dict[Scale, Path] = field(default_factory=dict)
    preset: str = "M"
    """Of `resenc`: nnU-Net's memory preset."""
    plan_of: str | None = None
    """The arm whose plan (spacing, patch, normalisation) this one takes over."""
    plan: dict[str, Any] = field(default_factory=dict)
    """Further fields of `PlanConfig`."""
    train: dict[str, Any] = field(default_factory=dict)
    """Further fields of `TrainConfig`, the learning rate among them."""

    @property
    def is_stu(self) -> bool:
        """Tell whether it is an STU-Net, which has a scale."""
        return self.kind in STU_KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """Nested random subsets of the training cases, scored on cases that no subset holds."""

    num_training_cases: tuple[int, ...]
    num_validation_cases: int
    seed: int = 0
    """Of the choice of validation cases, one choice for the whole study."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What every cell may use: the same for all arms."""

    num_epochs: int
    num_iterations: int
    learning_rate: float
    fine_tuning_learning_rate: float | None
    """None leaves it to the recipe of the arm."""
    precision: str
    device: str
    gpu_memory_gib: float
    num_workers: int | None
    tolerance_mm: float
    """Of NSD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An arm against the one that it has to beat."""

    arm: str
    baseline: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A whole study."""

    path: Path
    name: str
    folder: Path
    datasets: tuple[StudyDataset, ...]
    arms: tuple[Arm, ...]
    scales: tuple[Scale, ...]
    seeds: tuple[int, ...]
    folds: tuple[int, ...]
    """Empty with a learning curve."""
    curve: LearningCurve | None
    budget: Budget
    comparisons: tuple[Comparison, ...]
    pretraining_labels: tuple[str, ...]
    """Empty: those that the weights name."""
    configuration: str | None

    def find_arm(self, name: str) -> Arm:
        """Return the arm of a name that the manifest has."""
        return next(arm for arm in self.arms if arm.name == name)

    def find_dataset(self, name: str) -> StudyDataset:
        """Return the dataset of a name that the manifest has."""
        return next(dataset for dataset in self.datasets if dataset.name == name)


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest; every problem is found before one is raised.

    Raises:
        UsageError: it is missing, not TOML, or says what makes no sense; all problems are listed.
        DataError: the only problems are datasets that cannot be found or read.
    """
    from stu_pipeline.study.manifest_parts import parse_manifest

    content = _read_toml(path)
    problems: list[str] = []
    data_problems: list[str] = []
    manifest = parse_manifest(Fields(content, "", problems), path.absolute(), data_problems)
    if problems or data_problems or manifest is None:
        everything = [*problems, *data_problems]
        kind = UsageError if problems else DataError
        count = f"has {len(everything)} problems, the first: " if len(everything) > 1 else "says what cannot be: "
        raise kind(
            f"'{path.name}' {count}{everything[0]}",
            where=path,
            hint="docs/reference/study-manifest.md names every key",
            details=tuple(everything[1:]),
        )
    return manifest


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UsageError(f"manifest '{path.name}' not found", where=path.absolute().parent) from error
    except (ValueError, RecursionError) as error:  # not TOML, or not text
        raise UsageError(f"manifest '{path.name}' is not valid TOML: {error}", where=path) from error
    except OSError as error:
        raise UsageError(f"manifest '{path.name}' cannot be read: {error.strerror}", where=path) from error
