"""Follow a training of another process from its files alone.

Reads: `status.json`, `metrics.jsonl`, the lock and the results of one fold. Writes nothing.
"""

from __future__ import annotations

import fcntl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.errors import ModelError
from stu_pipeline.log import Listener, Notice, ignore_events
from stu_pipeline.nnunet.events import EpochDone, StepsDone
from stu_pipeline.records import describe
from stu_pipeline.storage import read_json
from stu_pipeline.training.config import Fold, TrainConfig
from stu_pipeline.training.run.requirements import find_plan, require_fold
from stu_pipeline.training.run.state import is_finished
from stu_pipeline.training.story.progress import RunStatus, parse_epoch, read_metrics, read_status
from stu_pipeline.workspace import RunPaths, find_dataset, fold_folder

_POLL_S = 1.0
_SILENT_S = 60.0  # a run that says nothing for longer is looked at: is its process there?
_NUM_OLD_EPOCHS = 10
_ENDED = ("finished", "stopped", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchResult:
    """A run that was followed to its end."""

    fold: Fold
    run_folder: Path
    num_epochs: int
    """Epochs that were trained."""
    mean_dice: float | None
    """Mean foreground Dice of the final validation."""


def follow_training(
    config: TrainConfig,
    *,
    listen: Listener = ignore_events,
) -> WatchResult:
    """Send the events of a fold that another process trains, until it is finished.

    The run may be on another machine that shares the disk.

    Args:
        config: what the training was started with; only what names the fold is used.
        listen: gets `EpochDone`, `StepsDone`, `Progress` and `Notice` as the training's own listener does.

    Raises:
        DataError: the dataset is missing.
        ModelError: there is no such plan or no such run; or it ended before it was finished: stopped,
            failed, or its process is gone.
        UsageError: several plans fit, or the fold does not exist.
    """
    return follow_run(find_run(config), fold=config.fold, listen=listen)


def follow_run(
    paths: RunPaths,
    *,
    fold: Fold,
    listen: Listener = ignore_events,
    poll_s: float = _POLL_S,
    silent_s: float = _SILENT_S,
) -> WatchResult:
    """Send the events of the run in a folder, until it is finished; of the old epochs the last ten come first.

    Args:
        paths: the run's files.
        fold: the fold it trains, for messages.
        listen: gets the events.
        poll_s: time between two looks at the files.
        silent_s: how long a run may say nothing before it counts as dead when nobody holds its lock.

    Raises:
        ModelError: there is no run, or it ended before it was finished.
    """
    if not any(path.exists() for path in (paths.status, paths.metrics, paths.lock)) and not is_finished(paths):
        raise ModelError(
            f"nobody has trained fold {fold} of '{paths.folder.parent.name}'",
            where=paths.folder,
            hint="run the same command without --watch to train it",
        )
    reader = _RunReader(paths)
    silence = _Silence(listen)
    while True:
        # Looked at before the files are read: what is read then is all that the run had to say.
        status = read_status(paths)
        end = _find_end(paths, status, silent_s=silent_s)
        for event in reader.read_new(status):
            listen(event)
        if end == "finished":
            return _describe_result(paths, fold)
        if end:
            raise _describe_end(paths, fold, status, end)
        silence.tell(status, silent_s)
        time.sleep(poll_s)


def find_run(config: TrainConfig) -> RunPaths:
    """Find where a fold is, or would be, trained.

    Raises:
        DataError: the dataset is missing.
        ModelError: there is no such plan.
        UsageError: several plans fit, or the fold does not exist.
    """
    dataset = find_dataset(config.dataset)
    plan = find_plan(dataset, config)
    require_fold(dataset, config.fold)
    configuration = plan.configuration(config.configuration or plan.default_configuration).name
    return RunPaths(fold_folder(dataset.model_folder(plan.name, configuration), config.fold))


class _RunReader:
    """Turns what is new in the files of a run into the events that its process sent."""

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._seen: tuple[int, int] | None = None
        self._last_epoch: int | None = None
        self._last_status: RunStatus | None = None

    def read_new(self, status: RunStatus | None) -> list[object]:
        events: list[object] = [*self._read_epochs(), *self._read_status(status)]
        self._last_status = status
        return events

    def _read_epochs(self) -> list[EpochDone]:
        try:
            facts = self._paths.metrics.stat()
        except FileNotFoundError:
            return []
        if (facts.st_size, facts.st_mtime_ns) == self._seen:
            return []
        self._seen = (facts.st_size, facts.st_mtime_ns)
        rows = read_metrics(self._paths.metrics)
        is_first, new = self._last_epoch is None, self._choose_new(rows)
        events = [parse_epoch(row) for row in (new[-_NUM_OLD_EPOCHS:] if is_first else new)]
        return [event for event in events if event is not None]

    def _choose_new(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        last = -1 if self._last_epoch is None else self._last_epoch
        if rows and rows[-1]["epoch"] < last:  # continued from an older checkpoint: it repeats epochs
            last = rows[-1]["epoch"]
        new = [row for row in rows if row["epoch"] > last]
        self._last_epoch = rows[-1]["epoch"] if rows else last
        return new

    def _read_status(self, status: RunStatus | None) -> list[object]:
        old = self._last_status
        if status is None or status == old:
            return []
        events: list[object] = []
        if status.state == "starting" and (old is None or old.state != "starting"):
            events.append(Notice(text=f"process {status.pid} on {status.host} is starting"))
        if status.notice is not None and (old is None or status.num_notices != old.num_notices):
            events.append(status.notice)
        if status.state == "training" and _is_current(status.steps, self._last_epoch):
            events.append(status.steps)
        if status.state == "validating" and status.progress is not None:
            events.append(status.progress)
        return events


@dataclass(slots=True)
class _Silence:
    """Says once when a run has not been heard of for long, and again after the next time."""

    listen: Listener
    is_told: bool = False

    def tell(self, status: RunStatus | None, silent_s: float) -> None:
        is_silent = status is not None and _measure_age(status) > silent_s
        if is_silent and status is not None and not self.is_told:
            text = f"no news for {_measure_age(status):.0f} s, but process {status.pid} on {status.host} is there"
            self.listen(Notice(text=text, is_warning=True))
        self.is_told = is_silent


def _is_current(steps: StepsDone | None, last_epoch: int | None) -> bool:
    return steps is not None and (last_epoch is None or steps.epoch > last_epoch)


def _find_end(paths: RunPaths, status: RunStatus | None, *, silent_s: float) -> str:
    """Tell how a run ended: `finished`, `stopped`, `failed`, `gone` without a word, or nothing while it goes on."""
    is_over = status is None or status.state in _ENDED
    if not is_over and status is not None and _measure_age(status) <= silent_s:
        return ""
    # After a restart the old status stands until the new process has loaded everything; it has the lock by then.
    if _is_locked(paths.lock):
        return ""
    if status is not None and status.state in _ENDED:
        return status.state
    return "finished" if is_finished(paths) else "gone"


def _is_locked(path: Path) -> bool:
    """Tell whether a process holds a lock file.

    A shared lock is tried for a moment, which another process that wants the lock just then could take for a
    holder; so it is tried only where a run seems to be over.
    """
    try:
        with path.open("r", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # held; or a disk that knows no locks, where nothing can be said
        return True
    return False


def _measure_age(status: RunStatus) -> float:
    """Return the seconds since a status was written; clocks of two machines may differ a little."""
    return max(0.0, time.time() - status.written_s)


def _describe_result(paths: RunPaths, fold: Fold) -> WatchResult:
    summary = read_json(paths.validation_summary) if paths.validation_summary.is_file() else {}
    return WatchResult(
        fold=fold,
        run_folder=paths.folder,
        num_epochs=len(read_metrics(paths.metrics)),
        mean_dice=describe(summary.get("foreground_mean", {}).get("Dice")),
    )


def _describe_end(paths: RunPaths, fold: Fold, status: RunStatus | None, end: str) -> ModelError:
    rows = read_metrics(paths.metrics)
    where = f" after epoch {rows[-1]['epoch'] + 1} of {rows[-1]['num_epochs']}" if rows else " before its first epoch"
    who = f" of process {status.pid} on {status.host}" if status else ""
    reasons = {"gone": f"the training{who} is gone without a word", "stopped": "stopped", "failed": "failed"}
    reason = reasons[end] + (f": {status.reason}" if status and status.reason else "")
    return ModelError(
        f"fold {fold} is not finished, {reason}{where if end == 'gone' else ''}",
        where=paths.folder,
        hint="run the same command without --watch to continue it",
    )
