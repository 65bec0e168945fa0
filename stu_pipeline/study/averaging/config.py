"""What an averaging of weights is asked for and what it hands back. Light: the command line imports it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.errors import UsageError

Fold = int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageConfig:
    """One averaging of the folds of a model, judged on held-out cases."""

    model: Path
    """Model folder, whose folds began with the same weights."""
    images: Path
    """Images that no fold was trained on."""
    labels: Path
    """Their label maps."""
    output: Path
    """The model folder to write, if the average is kept."""
    folds: tuple[Fold, ...] = ()
    """Which folds; empty takes all finished ones."""
    tta: str = "full"
    device: str = "auto"
    overwrite: bool = False
    """Replace a model that an earlier averaging wrote."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            UsageError: a folder is missing, or the output is the model itself.
        """
        for name in ("model", "images", "labels"):
            folder: Path = getattr(self, name)
            if not folder.is_dir():
                raise UsageError(f"{name} folder '{folder}' not found")
        if self.tta not in ("full", "none"):
            raise UsageError(f"tta must be full or none, got '{self.tta}'")
        if self.output.absolute() == self.model.absolute():
            raise UsageError("the average cannot replace the model that it is made of", hint="choose another -o")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One model that was scored on the held-out cases."""

    name: str
    """'fold 0', 'average of folds', 'average of moving averages'."""
    is_candidate: bool
    """An average that may be kept; else a single fold to beat."""
    mean_dice: float
    scores: tuple[float, ...]
    """Mean Dice of each case, in the order of `AverageResult.cases`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageResult:
    """What was scored, and whether an average was kept."""

    members: tuple[Member, ...]
    cases: tuple[str, ...]
    kept: str | None
    """Name of the average that was written; None when none was."""
    output: Path | None
    verdict: str
