"""What is already in a run folder: finished, to be continued, or new.

Reads: the checkpoints of one fold.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.errors import ModelError, NonFiniteError
from stu_pipeline.storage import previous_path
from stu_pipeline.training.loop.position import Position
from stu_pipeline.workspace import RunPaths

NUM_OLDER = 2
_REQUIRED_KEYS = ("network_weights", "optimizer_state", "logging", "current_epoch", "init_args", "trainer_name")
_log = logging.getLogger("stu_pipeline.training")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """A checkpoint that loads, with the damaged ones that were passed over."""

    path: Path
    checkpoint: dict[str, Any]
    damaged: tuple[Path, ...] = ()

    @property
    def epoch(self) -> int:
        """The epoch to begin with."""
        return int(self.checkpoint["current_epoch"])

    @property
    def position(self) -> Position:
        """Where in that epoch; its start for a stock checkpoint."""
        return Position.from_json(self._own.get("position") or {})

    @property
    def settings(self) -> dict[str, Any]:
        """The hyperparameters stored with the weights; empty for a stock checkpoint."""
        return dict(self._own.get("settings", {}))

    @property
    def execution(self) -> dict[str, Any] | None:
        """How its steps ran; None for a stock checkpoint."""
        return self._own.get("execution")

    @property
    def average(self) -> dict[str, Any] | None:
        """The averaged weights, where they were kept."""
        return self._own.get("average")

    @property
    def mirroring(self) -> dict[str, Any] | None:
        """Its axes and pairs; None for a stock checkpoint."""
        return self._own.get("mirroring")

    @property
    def start(self) -> dict[str, Any]:
        """What the training began with; of kind `unknown` where stock nnU-Net wrote the checkpoint."""
        return dict(self._own.get("start") or {"kind": "scratch" if self._own else "unknown"})

    @property
    def has_momentum(self) -> bool:
        """Whether the optimizer's state is there: not in a `best` of ours."""
        return bool(self.checkpoint["optimizer_state"]["state"])

    @property
    def rank(self) -> tuple[bool, int, int]:
        """How far it is; one that continues exactly goes before one that does not."""
        return self.has_momentum, self.epoch, self.position.step

    @property
    def _own(self) -> dict[str, Any]:
        return dict(self.checkpoint.get("stu") or {})


def is_trained(paths: RunPaths) -> bool:
    """Tell whether the training is over (the validation may still be missing)."""
    return paths.checkpoint("final").is_file()


def is_finished(paths: RunPaths) -> bool:
    """Tell whether training and final validation are complete."""
    return is_trained(paths) and paths.validation_summary.is_file()


def list_checkpoints(paths: RunPaths) -> list[Path]:
    """List the checkpoints a run may continue from that are there."""
    latest = paths.checkpoint("latest")
    older = [previous_path(latest, age) for age in range(1, NUM_OLDER + 1)]
    candidates = [paths.checkpoint("final"), latest, *older, paths.checkpoint("best")]
    return [path for path in candidates if path.is_file()]


def find_resume_point(paths: RunPaths) -> ResumePoint | None:
    """Find the valid checkpoint of a run that is farthest, by the step inside it; None when there is none.

    Damaged ones are passed over and kept.

    Raises:
        ModelError: there are checkpoints, and every one is damaged.
    """
    present = list_checkpoints(paths)
    best: ResumePoint | None = None
    damaged: list[Path] = []
    for path in present:
        point = _read_point(path)
        if point is None:
            damaged.append(path)
        elif best is None or point.rank > best.rank:
            best = point
    if present and best is None:
        raise ModelError(
            f"no checkpoint of this run can be read: {', '.join(path.name for path in damaged)}",
            where=paths.folder,
            hint="start anew with --resume never",
        )
    if best is None:
        return None
    return ResumePoint(path=best.path, checkpoint=best.checkpoint, damaged=tuple(damaged))


def _read_point(path: Path) -> ResumePoint | None:
    from stu_pipeline.nnunet.checkpoint import read_checkpoint

    try:
        point = ResumePoint(path=path, checkpoint=read_checkpoint(path, required=_REQUIRED_KEYS))
        _require_sound(point)
    except (ModelError, NonFiniteError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("'%s' cannot be continued: %s", path.name, error)
        return None
    return point


def _require_sound(point: ResumePoint) -> None:
    """Require a place in the training that exists, and momentum that is finite: the step uses it unseen."""
    from stu_pipeline.nnunet.checkpoint import require_finite_weights

    num_steps = int(point.settings.get("num_iterations", point.position.step))
    if point.epoch < 0 or not 0 <= point.position.step <= num_steps:
        raise ValueError(f"it stands at epoch {point.epoch}, step {point.position.step} of {num_steps}")
    states = point.checkpoint["optimizer_state"]["state"].items()
    momentum = {f"momentum {index}": state.get("momentum_buffer") for index, state in states}
    require_finite_weights({name: value for name, value in momentum.items() if value is not None})
