"""Keep the story of a run: one line per epoch in `metrics.jsonl`, and `progress.png`.

Writes: `metrics.jsonl`, `progress.png`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stu_pipeline.nnunet.events import EpochDone
from stu_pipeline.records import describe
from stu_pipeline.storage import storage_errors, write_atomically, write_text
from stu_pipeline.workspace import RunPaths

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MIN_PLOT_INTERVAL_S = 20.0


class RunStory:
    """Writes the metrics of every epoch, and the picture at most every 20 seconds.

    Args:
        paths: the run's files.
        first_epoch: where the run begins; later lines of an earlier attempt are dropped.
    """

    def __init__(self, paths: RunPaths, *, first_epoch: int) -> None:
        self._paths = paths
        self._rows = [row for row in read_metrics(paths.metrics) if row["epoch"] < first_epoch]
        self._plotted_s = -_MIN_PLOT_INTERVAL_S
        write_text(paths.metrics, "".join(json.dumps(row) + "\n" for row in self._rows))

    def add(self, event: EpochDone) -> None:
        """Append one epoch."""
        row = describe(event)
        self._rows.append(row)
        with storage_errors(self._paths.metrics), self._paths.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        if time.monotonic() - self._plotted_s >= _MIN_PLOT_INTERVAL_S:
            self.plot()

    def plot(self) -> None:
        """Draw `progress.png` now."""
        if self._rows:
            draw_progress(self._rows, self._paths.progress_picture)
            self._plotted_s = time.monotonic()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`; a cut last line (the run was killed) is left out. No file gives no rows."""
    rows: list[dict[str, Any]] = []
    if not path.is_file():
        return rows
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def draw_progress(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw loss, Dice per label, learning rate and epoch time over the epochs, and save it atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    epochs = [row["epoch"] for row in rows]
    _draw_losses(axes[0, 0], epochs, rows)
    _draw_dice(axes[0, 1], epochs, rows)
    axes[1, 0].plot(epochs, [row["learning_rate"] for row in rows], color="tab:gray")
    axes[1, 0].set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    axes[1, 1].plot(epochs, [row["elapsed_s"] for row in rows], color="tab:blue", label="epoch")
    waits = [row["elapsed_s"] * row["data_wait"] for row in rows]
    axes[1, 1].fill_between(epochs, waits, color="tab:orange", alpha=0.6, label="of it waiting for data")
    axes[1, 1].set(xlabel="epoch", ylabel="time [s]", ylim=(0, None))
    axes[1, 1].legend(loc="lower right", fontsize="small")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=100, format="png"))


def _draw_losses(axis: Axes, epochs: list[int], rows: Sequence[dict[str, Any]]) -> None:
    axis.plot(epochs, [_number(row["train_loss"]) for row in rows], label="training", color="tab:blue")
    axis.plot(epochs, [_number(row["val_loss"]) for row in rows], label="validation", color="tab:red")
    axis.set(xlabel="epoch", ylabel="loss")
    axis.legend(fontsize="small")


def _draw_dice(axis: Axes, epochs: list[int], rows: Sequence[dict[str, Any]]) -> None:
    names = list(rows[-1]["dice"])
    # More lines than ten cannot be told apart; the mean stands for them.
    for name in names if len(names) <= 10 else []:
        values = [_number(row["dice"].get(name)) for row in rows]
        axis.plot(epochs, values, linewidth=1, alpha=0.6, label=name)
    axis.plot(epochs, [_number(row["ema_dice"]) for row in rows], color="black", label="mean, moving average")
    axis.set(xlabel="epoch", ylabel="pseudo Dice of random patches", ylim=(0, 1))
    axis.legend(fontsize="small", loc="lower right")


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
