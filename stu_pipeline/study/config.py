"""What `run_study()` takes and what it returns. Light: the command line imports it for its defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stu_pipeline.errors import UsageError

CellState = Literal["todo", "started", "done", "failed", "changed"]
"""`started`: begun and not finished, now or when it was stopped; `changed`: made with other settings than the
manifest's."""
STATES: tuple[CellState, ...] = ("done", "failed", "started", "changed", "todo")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """One pass over the cells of a study: what is not finished is run, and the tables are written."""

    manifest: Path
    """The TOML file that describes the study (docs/reference/study-manifest.md)."""
    jobs: int = 1
    """Cells that run at the same time; on CUDA each has a GPU of its own."""
    cells: tuple[str, ...] = ()
    """Patterns of the names of the cells to run (`*.scratch.*`); empty: all."""
    cell: str | None = None
    """The name of the one cell to run in this process, as an exported job does; no tables are written then."""
    dry_run: bool = False
    """Show the matrix, what is done and what the rest will take; nothing is written."""
    export_jobs: Path | None = None
    """Folder for one shell script per cell and a SLURM array file; nothing is run then."""
    force: bool = False
    """Begin cells anew that failed, were stopped or were made with other settings; finished ones stay."""
    num_workers: int | None = None
    """Worker processes of every cell, in place of the manifest's number; decides no result."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            UsageError: a value makes no sense, or two exclude each other.
        """
        if self.jobs < 1:
            raise UsageError(f"jobs must be at least 1, got {self.jobs}")
        if self.num_workers is not None and self.num_workers < 0:
            raise UsageError(f"workers must be at least 0, got {self.num_workers}")
        if self.cell is not None and self.cells:
            raise UsageError("one cell and patterns of cells exclude each other", hint="leave out --only")
        if self.cell is not None and self.jobs > 1:
            raise UsageError("one cell runs in this process, so there is nothing to run beside it", hint="--jobs 1")
        if self.export_jobs is not None and (self.dry_run or self.cell is not None):
            raise UsageError("exporting jobs runs nothing and goes with neither --dry-run nor --cell")


@dataclass(frozen=True, slots=True, kw_only=True)
class CellStatus:
    """One cell of the matrix and how it stands."""

    name: str
    dataset: str
    arm: str
    scale: str | None
    """None for a stock network, which has none."""
    num_training_cases: int | None
    """None where the cell is a fold."""
    fold: int | None
    seed: int
    state: CellState
    mean_dice: float | None = None
    """Mean over labels of the mean over cases."""
    elapsed_s: float | None = None
    flags: tuple[str, ...] = ()
    """What makes a finished run look failed: a label that is never found, a loss that never fell."""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyForecast:
    """What the cells of one arm on one dataset that are not done will use. None: nothing can be said."""

    dataset: str
    arm: str
    scale: str | None
    num_cells: int
    disk_gib: float | None
    """Preprocessed data; plans that share it say the same number."""
    checkpoint_gib: float | None
    hours: float | None
    """One after the other, on what `basis` names."""
    basis: str
    """The device that planning forecasts for (without validation), or that finished cells took as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """How a study stands after this pass."""

    name: str
    folder: Path
    cells: tuple[CellStatus, ...]
    forecasts: tuple[StudyForecast, ...] = ()
    """With `dry_run` only."""
    summaries: tuple[str, ...] = ()
    """What each comparison came to, a sentence each."""
    compare_commands: tuple[str, ...] = ()
    """One `stu compare` per comparison, dataset and number of training cases."""
    files: tuple[Path, ...] = ()
    """Tables and page, or the exported scripts."""
    missing: tuple[str, ...] = field(default=())
    """Comparisons that cannot be made yet, and why."""

    @property
    def failed(self) -> tuple[CellStatus, ...]:
        """The cells that failed."""
        return tuple(cell for cell in self.cells if cell.state == "failed")

    def count(self, state: CellState) -> int:
        """Count the cells of a state."""
        return sum(cell.state == state for cell in self.cells)
