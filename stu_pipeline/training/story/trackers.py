"""Hand the epochs of a run to TensorBoard, MLflow or Weights & Biases.

Writes: `tensorboard/`, `mlflow/` or `wandb/` in the run folder. MLflow and wandb go elsewhere only where the
user's own settings of these programs say so.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from stu_pipeline.errors import StorageError, UsageError
from stu_pipeline.log import Listener, Notice, ignore_events
from stu_pipeline.nnunet.environment import set_variables
from stu_pipeline.nnunet.events import EpochDone
from stu_pipeline.storage import write_json

_PROJECT = "stu"
# `RuntimeError` is what the libraries raise for a dead thread or service of theirs.
_FAILURES: tuple[type[BaseException], ...] = (StorageError, OSError, RuntimeError, ValueError, TypeError)
_SCALARS = {
    "train_loss": "loss/training",
    "val_loss": "loss/validation",
    "mean_dice": "dice/mean",
    "ema_dice": "dice/moving_average",
    "ema_weights_dice": "dice/averaged_weights",
    "learning_rate": "learning_rate",
    "elapsed_s": "time/epoch_s",
    "step_s": "time/step_s",
    "data_wait": "time/data_wait",
    "overhead": "time/overhead",
    "images_per_s": "time/images_per_s",
    "num_skipped_steps": "steps_skipped",
    "gpu_memory_gib": "gpu/memory_gib",
    "gpu_utilization": "gpu/utilization",
}
# MLflow's rule for names is the strictest.
_FORBIDDEN = re.compile(r"[^\w\-. /]", re.ASCII)


class _Sink(Protocol):
    failures: tuple[type[BaseException], ...]

    def write(self, epoch: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Tracker:
    """One program that gets the epochs. Its failure is told once and never stops a training.

    Args:
        name: what the user calls it.
        sink: what writes for it.
        listen: gets the warning.
    """

    def __init__(self, name: str, sink: _Sink, *, listen: Listener = ignore_events) -> None:
        self.name = name
        self._sink: _Sink | None = sink
        self._listen = listen

    def add(self, event: EpochDone) -> None:
        """Pass one epoch on; after a failure do nothing."""
        self._try(lambda sink: sink.write(event.epoch, list_scalars(event)))

    def close(self) -> None:
        """Finish what is written; closing again does nothing."""
        self._try(lambda sink: sink.close())
        self._sink = None

    def _try(self, action: Callable[[_Sink], None]) -> None:
        if self._sink is None:
            return
        try:
            action(self._sink)
        except self._sink.failures as error:
            self._sink = None
            self._listen(_describe_failure(self.name, error))


def open_trackers(
    names: tuple[str, ...] | None,
    folder: Path,
    *,
    first_epoch: int,
    facts: Mapping[str, object] | None = None,
    listen: Listener = ignore_events,
) -> list[Tracker]:
    """Open the trackers of a run. Call it in one process of a training only (rank 0).

    A continued run (`first_epoch` above 0) goes on in the same place and leaves no epoch there twice.
    One that cannot be opened, for example for want of a login, is told and left out.

    Args:
        names: what to open; None means TensorBoard where it is installed, silently nothing elsewhere.
        folder: the run folder.
        first_epoch: the epoch that the run begins with.
        facts: what is worth knowing about the run, by name.
        listen: gets the warnings.

    Raises:
        UsageError: one that was asked for is not installed.
    """
    if names is None:
        names = ("tensorboard",) if _is_installed("tensorboard") else ()
    require_trackers(names)
    trackers = []
    for name in names:
        failures: tuple[type[BaseException], ...] = (*_FAILURES, ImportError)
        try:
            failures = (*failures, *_list_failures(name))
            sink = _SINKS[name](folder, first_epoch, dict(facts or {}))
        except failures as error:
            listen(_describe_failure(name, error))
        else:
            trackers.append(Tracker(name, sink, listen=listen))
    return trackers


def require_trackers(names: Sequence[str]) -> None:
    """Require every tracker to be installed; imports none.

    Raises:
        UsageError: one is missing.
    """
    for name in names:
        if not _is_installed(name):
            raise UsageError(
                f"tracker '{name}' is not installed",
                hint=f"pip install 'stu-pipeline[{name}]', or leave --track {name} out",
            )


def list_scalars(event: EpochDone) -> dict[str, float]:
    """List the numbers of an epoch under the names that trackers show; what is None or not finite is left out."""
    values = {title: getattr(event, field) for field, title in _SCALARS.items()}
    values |= {f"dice/label/{_FORBIDDEN.sub('_', name)}": value for name, value in event.dice.items()}
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


class _TensorBoard:
    failures = _FAILURES

    def __init__(self, folder: Path, first_epoch: int, facts: dict[str, object]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard hides what an earlier attempt wrote from `purge_step` on.
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=first_epoch)
        if facts:
            text = "\n".join(f"    {name}: {value}" for name, value in facts.items())
            self._writer.add_text("run", text, first_epoch)

    def write(self, epoch: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    # Files, as a database wants locks that network disks lack; and no word to anybody's server.
    _ENVIRONMENT = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}  # noqa: RUF012

    def __init__(self, folder: Path, first_epoch: int, facts: dict[str, object]) -> None:
        self.failures = (*_FAILURES, *_list_failures("mlflow"))
        with set_variables(self._ENVIRONMENT):
            mlflow = importlib.import_module("mlflow")
            self._entities = importlib.import_module("mlflow.entities")
            # Whoever set a tracking URI wants the run there.
            uri = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else (folder / "mlflow").absolute().as_uri()
            self._client: Any = mlflow.MlflowClient(tracking_uri=uri)
            self._note = _RunNote(folder / "mlflow")
            self._run_id = self._open_run(folder, first_epoch, facts)
            self._note.start(self._run_id)

    def _open_run(self, folder: Path, first_epoch: int, facts: dict[str, object]) -> str:
        if first_epoch > 0 and self._note.run_id:
            self._client.update_run(self._note.run_id, status="RUNNING")
            return self._note.run_id
        experiment = self._client.get_experiment_by_name(_PROJECT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(_PROJECT)
        run_id = str(self._client.create_run(number, run_name=_name_run(folder)).info.run_id)
        for name, value in facts.items():
            self._client.log_param(run_id, _FORBIDDEN.sub("_", name), str(value)[:500])
        return run_id

    def write(self, epoch: int, scalars: Mapping[str, float]) -> None:
        if epoch <= self._note.last_epoch:
            return
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(name, value, now, epoch) for name, value in scalars.items()]
        with set_variables(self._ENVIRONMENT):
            self._client.log_batch(self._run_id, metrics=metrics)
        self._note.note_epoch(epoch)

    def close(self) -> None:
        with set_variables(self._ENVIRONMENT):
            self._client.set_terminated(self._run_id)


class _Wandb:
    # Nobody is there to answer a question about a login.
    _ENVIRONMENT = {"WANDB_SILENT": "true"}  # noqa: RUF012

    def __init__(self, folder: Path, first_epoch: int, facts: dict[str, object]) -> None:
        self.failures = (*_FAILURES, *_list_failures("wandb"))
        self._note = _RunNote(folder / "wandb")
        self._note.start((self._note.run_id if first_epoch > 0 else "") or uuid.uuid4().hex[:12])
        with set_variables(self._ENVIRONMENT):
            wandb = importlib.import_module("wandb")
            self._run: Any = wandb.init(
                project=_PROJECT,
                dir=str(folder),
                id=self._note.run_id,
                name=_name_run(folder),
                resume="allow",
                config=facts,
                settings=wandb.Settings(silent=True, console="off", disable_git=True),
            )

    def write(self, epoch: int, scalars: Mapping[str, float]) -> None:
        if epoch > self._note.last_epoch:
            self._run.log(dict(scalars), step=epoch)
            self._note.note_epoch(epoch)

    def close(self) -> None:
        self._run.finish()


class _RunNote:
    """Remembers a run's id and its last epoch, so that epochs repeated after a kill are not sent twice."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "stu_run.json"
        self.run_id, self.last_epoch = "", -1
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
            self.run_id, self.last_epoch = str(known["run_id"]), int(known["last_epoch"])
        except (OSError, ValueError, KeyError, TypeError):
            folder.mkdir(parents=True, exist_ok=True)

    def start(self, run_id: str) -> None:
        """Take `run_id` for what comes; another one than before begins from nothing."""
        self.last_epoch = self.last_epoch if run_id == self.run_id else -1
        self.run_id = run_id
        self.note_epoch(self.last_epoch)

    def note_epoch(self, epoch: int) -> None:
        """Note that `epoch` is sent."""
        self.last_epoch = epoch
        write_json(self._path, {"run_id": self.run_id, "last_epoch": epoch})


_SINKS: dict[str, Callable[[Path, int, dict[str, object]], _Sink]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
    "wandb": _Wandb,
}


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # something without a description stands in its place
        return False


def _list_failures(name: str) -> tuple[type[BaseException], ...]:
    """List the error classes of a tracker's own library."""
    if name == "mlflow":
        with set_variables(_MLflow._ENVIRONMENT):
            return (importlib.import_module("mlflow.exceptions").MlflowException,)
    if name == "wandb":
        with set_variables(_Wandb._ENVIRONMENT):
            return (importlib.import_module("wandb.errors").Error,)
    return ()


def _describe_failure(name: str, error: BaseException) -> Notice:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return Notice(text=f"tracker '{name}' failed, the training goes on without it: {reason}", is_warning=True)


def _name_run(folder: Path) -> str:
    """Name a run after its model folder and fold."""
    return f"{folder.parent.name}/{folder.name}"
