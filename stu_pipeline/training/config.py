"""What a user asks of a training, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stu_pipeline.errors import UsageError

PRECISIONS = ("auto", "bf16", "fp16", "fp32")
DEVICES = ("auto", "cuda", "cpu", "mps")
DEFAULT_NUM_EPOCHS = 1000
DEFAULT_NUM_ITERATIONS = 250
DEFAULT_LEARNING_RATE = 1e-2

Fold = int | str
"""`0`, `1`... or `"all"`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run of one fold.

    What is None keeps the value stored in the checkpoint when a run is continued, and takes
    nnU-Net's default when it starts.
    """

    dataset: str
    fold: Fold = 0
    scale: str | None = None
    """None: the only plan of the dataset."""
    plan_name: str | None = None
    configuration: str | None = None
    """None: 3d_fullres, or 2d for two-dimensional data."""
    num_epochs: int | None = None
    num_iterations: int | None = None
    """Training steps per epoch; a fifth of it (at least one) are validation steps."""
    learning_rate: float | None = None
    precision: str = "auto"
    device: str = "auto"
    resume: str = "auto"
    force: bool = False
    """Train a finished fold again; its files are replaced."""
    seed: int | None = None
    deterministic: bool = False
    num_workers: int | None = None

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UsageError: a value makes no sense.
        """
        if self.fold != "all" and not (isinstance(self.fold, int) and self.fold >= 0):
            raise UsageError(f"fold must be 'all' or a number from 0, got '{self.fold}'")
        for name in ("num_epochs", "num_iterations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise UsageError(f"learning rate must be positive, got {self.learning_rate}")
        _require_one_of("precision", self.precision, PRECISIONS)
        _require_one_of("device", self.device, DEVICES)
        _require_one_of("resume", self.resume, ("auto", "never"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A finished fold."""

    dataset: str
    plan_name: str
    configuration: str
    fold: Fold
    run_folder: Path
    model_folder: Path
    num_epochs: int
    mean_dice: float | None
    """Mean foreground Dice of the final validation."""
    dice: dict[str, float | None] = field(default_factory=dict)
    elapsed_s: float = 0.0
    was_finished: bool = False
    """Nothing was done: the fold was complete."""
    cross_validation: Path | None = None
    """Summary over all folds, once all are there."""


def _require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} must be one of {', '.join(allowed)}, got '{value}'")
