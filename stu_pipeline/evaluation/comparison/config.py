"""What `compare()` takes and what it returns. Light: the command line imports it for its defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.errors import UsageError

METRICS = {
    "Dice": True, "IoU": True, "NSD": True, "HD95_mm": False, "ASSD_mm": False, "volume_error_ml": False,
    "volume_error_relative": False, "lesion_f1": True, "lesion_precision": True, "lesion_recall": True,
    "FP": False, "FN": False, "lesion_fp": False, "lesion_fn": False,
}  # fmt: skip
"""Every metric that can be compared, and whether higher is better. Errors of volume count by their size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """One comparison of evaluated runs on the same cases."""

    runs: tuple[Path, ...]
    """Two or more: a `summary.json`, a folder that holds one, or a model folder (all its validated folds)."""
    metric: str = "Dice"
    """One of `METRICS`."""
    names: tuple[str, ...] = ()
    """What the runs are called, in their order. Empty: after their folders."""
    common: bool = False
    """Compare only the cases and labels that all runs have; otherwise a difference is an error."""
    output: Path | None = None
    """Folder for `comparison.json`, `.csv`, `.md` and `.html`. None: nothing is written."""
    seed: int = 0
    """Seed of the bootstrap behind the confidence intervals."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if len(self.runs) < 2:
            raise UsageError(f"a comparison needs two runs or more, got {len(self.runs)}", hint="stu compare A B")
        if self.metric not in METRICS:
            raise UsageError(f"metric '{self.metric}' cannot be compared, expected one of {', '.join(METRICS)}")
        if self.names and len(self.names) != len(self.runs):
            raise UsageError(f"{len(self.names)} names were given for {len(self.runs)} runs")
        if len(set(self.names)) < len(self.names):
            raise UsageError(f"two runs have the same name: {', '.join(self.names)}")
        if self.seed < 0:
            raise UsageError(f"seed must be at least 0, got '{self.seed}'")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One of the runs, and how it stands."""

    name: str
    path: Path
    mean: float | None
    """Mean over the cases of the mean over the labels of a case, where all runs have a finite score."""
    mean_rank: float | None
    """1 is the best; equal scores share their ranks."""
    num_cases: int
    """Cases in its summary, compared or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The second run minus the first, for one label or over all of them; None where nothing can be said."""

    label: str
    mean_first: float | None
    mean_second: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    """Wilcoxon signed-rank test, two-sided, not corrected."""
    p_corrected: float | None
    """Holm's correction: over labels and pairs of runs for a label, over pairs of runs for all labels together."""
    rank_biserial: float | None
    """Effect size, -1 to 1; positive when the second run is better."""
    cohens_dz: float | None
    wins: int
    """Cases in which the second run is better."""
    ties: int
    losses: int
    num_cases: int
    num_left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairResult:
    """Two runs compared."""

    first: str
    second: str
    sentence: str
    """The result in words."""
    overall: Difference
    """On the mean over the labels of each case."""
    labels: tuple[Difference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FriedmanResult:
    """Whether any of three or more runs differs from the others."""

    label: str
    statistic: float
    p_value: float
    p_corrected: float | None
    """Holm's correction over the labels; None for all labels together, which is one test."""
    num_cases: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareResult:
    """What a comparison found."""

    metric: str
    higher_is_better: bool
    runs: tuple[ComparedRun, ...]
    """In the order they were given."""
    pairs: tuple[PairResult, ...]
    """Every pair, the earlier run first."""
    friedman: tuple[FriedmanResult, ...]
    """Over all labels, then per label; empty for two runs and below three cases."""
    cases: tuple[str, ...]
    labels: tuple[str, ...]
    left_out: tuple[str, ...]
    """Cases and labels that only some runs have, in words; empty unless `common` was asked for."""
    files: tuple[Path, ...] = ()
    """What was written."""
