"""What a ranking of weights is asked for and what it hands back. Light: the command line imports it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.errors import UsageError

SCRATCH = "untrained"
"""Name of the row that every candidate has to beat: fresh weights of the smallest candidate's scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankConfig:
    """One ranking of candidate weights for a dataset."""

    dataset: str
    weights: tuple[Path, ...]
    """Files of weights; one is enough, fresh weights always take part."""
    scale: str | None = None
    """Whose plan says spacing, patch and strides; None: the only plan."""
    plan_name: str | None = None
    configuration: str | None = None
    num_cases: int = 16
    """Training cases to look at, drawn at random when there are more."""
    num_patches: int = 2
    """Patches per case, each around a label."""
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            UsageError: a number is too small, a file is missing or named twice.
        """
        if self.num_cases < 3 or self.num_patches < 1 or self.seed < 0:
            raise UsageError(
                f"a ranking needs at least 3 cases, 1 patch and a seed from 0, "
                f"got {self.num_cases}, {self.num_patches}, {self.seed}"
            )
        if not self.weights:
            raise UsageError("no weights to rank", hint="stu weights rank DATASET FILE FILE")
        if len({path.absolute() for path in self.weights}) < len(self.weights):
            raise UsageError("a file of weights is named twice")


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRow:
    """One candidate."""

    name: str
    scale: str
    score: float
    """Mean over cases of the mean one-against-rest AUROC over labels, 0.5 to 1."""
    difference: float
    """To the best candidate, 0 or less."""
    ci_low: float
    """Lower end of the 95 % confidence interval of `difference`, cases drawn in pairs."""
    ci_high: float
    chance_best: float
    """Share of redrawn sets of cases in which this candidate comes first."""
    scores: tuple[float, ...]
    """One per case, in the order of `RankResult.cases`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankResult:
    """A ranking, best first."""

    rows: tuple[RankRow, ...]
    cases: tuple[str, ...]
    verdict: str
    """One sentence: which is best, and how sure that is."""
    elapsed_s: float
