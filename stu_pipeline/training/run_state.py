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
from stu_pipeline.workspace import RunPaths

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
    def settings(self) -> dict[str, Any]:
        """The hyperparameters stored with the weights; empty for a stock checkpoint."""
        return dict(self.checkpoint.get("stu", {}).get("settings", {}))


def is_trained(paths: RunPaths) -> bool:
    """Tell whether the training is over (the validation may still be missing)."""
    return paths.checkpoint("final").is_file()


def is_finished(paths: RunPaths) -> bool:
    """Tell whether training and final validation are complete."""
    return is_trained(paths) and paths.validation_summary.is_file()


def find_resume_point(paths: RunPaths) -> ResumePoint | None:
    """Find the newest valid checkpoint of a run, by the epoch inside it; None when there is none.

    Raises:
        ModelError: there are checkpoints, and every one is damaged.
    """
    from stu_pipeline.nnunet.checkpoint import read_checkpoint

    latest = paths.checkpoint("latest")
    candidates = [paths.checkpoint("final"), latest, previous_path(latest), paths.checkpoint("best")]
    present = [path for path in candidates if path.is_file()]
    best: ResumePoint | None = None
    damaged: list[Path] = []
    for path in present:
        try:
            checkpoint = read_checkpoint(path, required=_REQUIRED_KEYS)
        except (ModelError, NonFiniteError) as error:
            _log.warning("%s", error)
            damaged.append(path)
            continue
        if best is None or int(checkpoint["current_epoch"]) > best.epoch:
            best = ResumePoint(path=path, checkpoint=checkpoint)
    if present and best is None:
        raise ModelError(
            f"no checkpoint of this run can be read: {', '.join(path.name for path in damaged)}",
            where=paths.folder,
            hint="start anew with --resume never",
        )
    if best is None:
        return None
    return ResumePoint(path=best.path, checkpoint=best.checkpoint, damaged=tuple(damaged))
