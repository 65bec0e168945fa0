"""Draw the picture of a run: loss, Dice, learning rate, time and GPU over the epochs.

Writes: `progress.png`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stu_pipeline.storage import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_LABELS = 10  # more lines than these cannot be told apart
_MAX_NAME = 26
_MAX_MARKED_EPOCHS = 40
_INCHES = (13.0, 7.6)
_GRID = {"left": 0.045, "right": 0.985, "bottom": 0.07, "top": 0.9, "wspace": 0.5, "hspace": 0.27}

Rows = Sequence[dict[str, Any]]
"""Lines of `metrics.jsonl`: the fields of `EpochDone`, None where something was not measured."""


def draw_progress(rows: Rows, path: Path, *, title: str = "") -> None:
    """Draw the epochs of a run and save the picture atomically; no rows give an empty frame.

    Args:
        rows: the epochs in order.
        path: the PNG to write.
        title: what was trained; stands above the panels, before the numbers of the last epoch.

    Raises:
        StorageError: the disk is full or not writable. The older picture is untouched.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=_INCHES)
    FigureCanvasAgg(figure)
    # Fixed margins: finding the best ones takes longer than drawing.
    grid = figure.add_gridspec(2, 6, **_GRID)
    panels = {
        _draw_losses: grid[0, :2],
        _draw_dice: grid[0, 2:5],
        _draw_learning_rate: grid[1, :2],
        _draw_time: grid[1, 2:4],
        _draw_memory if _has_any(rows, "gpu_memory_gib") else _draw_speed: grid[1, 4:],
    }
    for draw, place in panels.items():
        axis = figure.add_subplot(place)
        draw(axis, rows)
        axis.grid(alpha=0.3)
        axis.margins(x=0.01)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    figure.suptitle(_describe_last(rows, title), x=_GRID["left"], y=0.965, ha="left", fontsize=12)
    # A low compression is several times faster and the file stays small: lines on white.
    options = {"compress_level": 3}
    write_atomically(path, lambda file: figure.savefig(file, dpi=100, format="png", pil_kwargs=options))


def _describe_last(rows: Rows, title: str) -> str:
    parts = [title.replace("$", r"\$")] if title else []
    if not rows:
        return "".join(parts)
    last = rows[-1]
    parts.append(f"epoch {last['epoch'] + 1} of {last['num_epochs']}")
    if last["ema_dice"] is not None:
        parts.append(f"Dice {last['ema_dice']:.3f} (moving average)")
    return ",  ".join(parts)


def _draw_losses(axis: Axes, rows: Rows) -> None:
    _draw_line(axis, rows, "train_loss", label="training", color="tab:blue", linewidth=1)
    _draw_line(axis, rows, "val_loss", label="validation", color="tab:red", linewidth=1)
    axis.set_title("loss", loc="left", fontsize="medium")
    _show_legend_above(axis)


def _draw_dice(axis: Axes, rows: Rows) -> None:
    names = list(rows[-1]["dice"]) if rows else []
    if len(names) <= _MAX_LABELS:
        for name in names:
            values = [_number(row["dice"].get(name)) for row in rows]
            axis.plot(_epochs(rows), values, linewidth=1, alpha=0.7, label=_write_name(name), **_marker(rows))
    else:
        _draw_range(axis, rows, len(names))
    _draw_line(axis, rows, "ema_dice", label="mean, moving average", color="black", linewidth=2)
    if _has_any(rows, "ema_weights_dice"):
        _draw_line(axis, rows, "ema_weights_dice", label="mean, averaged weights", color="black", linestyle=":")
    best = [row for row in rows if row["is_best"] and row["ema_dice"] is not None][-1:]
    if best:
        axis.plot(best[0]["epoch"], best[0]["ema_dice"], "*", color="black", markersize=9, label="best so far")
    axis.set(ylim=(0, 1))
    axis.set_title("Dice of random validation patches (optimistic)", loc="left", fontsize="medium")
    # In the free column of the grid.
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize="small", frameon=False)


def _write_name(name: str) -> str:
    """Shorten a label's name; dollars begin no formula, and a leading underscore does not hide it."""
    short = name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 3]}..."
    return " " + short.replace("$", r"\$")


def _draw_range(axis: Axes, rows: Rows, num_labels: int) -> None:
    nan = float("nan")
    values = [[value for value in row["dice"].values() if value is not None] for row in rows]
    lowest = [min(some, default=nan) for some in values]
    highest = [max(some, default=nan) for some in values]
    label = f"worst to best of {num_labels} labels"
    axis.fill_between(_epochs(rows), lowest, highest, color="tab:blue", alpha=0.2, linewidth=0, label=label)
    _draw_line(axis, rows, "mean_dice", label="mean", color="tab:blue")


def _draw_learning_rate(axis: Axes, rows: Rows) -> None:
    _draw_line(axis, rows, "learning_rate", color="tab:gray")
    axis.set(ylim=(0, _limit(rows, "learning_rate")), xlabel="epoch")
    axis.set_title("learning rate", loc="left", fontsize="medium")


def _draw_time(axis: Axes, rows: Rows) -> None:
    epochs = _epochs(rows)
    waits = [row["elapsed_s"] * row["data_wait"] for row in rows]
    step: Literal["mid"] | None = "mid" if len(rows) <= _MAX_MARKED_EPOCHS else None
    _draw_line(axis, rows, "elapsed_s", label="all", color="tab:blue")
    if _has_any(rows, "gpu_utilization"):
        busy = [row["elapsed_s"] * _number(row.get("gpu_utilization")) for row in rows]
        axis.plot(epochs, busy, color="tab:green", linewidth=1, label="GPU busy", **_marker(rows))
    axis.fill_between(epochs, waits, color="tab:orange", linewidth=0, step=step, label="data wait")
    if _has_any(rows, "overhead"):
        both = [wait + row["elapsed_s"] * (row.get("overhead") or 0.0) for wait, row in zip(waits, rows, strict=True)]
        axis.fill_between(epochs, waits, both, color="tab:purple", linewidth=0, step=step, label="overhead")
    axis.set(ylim=(0, _limit_time(rows)), xlabel="epoch")
    axis.set_title("s/epoch", loc="left", fontsize="medium")
    _show_legend_above(axis)


def _limit_time(rows: Rows) -> float | None:
    """Cut off a few very long epochs (the first one, a suspended machine), which would flatten all others."""
    times = sorted(row["elapsed_s"] for row in rows)
    typical = times[len(times) * 9 // 10] if len(times) >= 10 else 0.0
    return 1.5 * typical if typical > 0 and times[-1] > 3 * typical else _limit(rows, "elapsed_s")


def _draw_memory(axis: Axes, rows: Rows) -> None:
    _draw_line(axis, rows, "gpu_memory_gib", color="tab:green")
    axis.set(ylim=(0, _limit(rows, "gpu_memory_gib")), xlabel="epoch")
    axis.set_title("peak GPU memory [GiB]", loc="left", fontsize="medium")


def _draw_speed(axis: Axes, rows: Rows) -> None:
    """Stand in for the memory where there is no GPU."""
    _draw_line(axis, rows, "images_per_s", color="tab:green")
    axis.set(ylim=(0, _limit(rows, "images_per_s")), xlabel="epoch")
    axis.set_title("training images per second of steps", loc="left", fontsize="medium")


def _draw_line(axis: Axes, rows: Rows, key: str, **style: Any) -> None:
    # Metrics of older versions lack the newer fields.
    axis.plot(_epochs(rows), [_number(row.get(key)) for row in rows], **{**_marker(rows), **style})


def _show_legend_above(axis: Axes) -> None:
    """Put the legend beside the title, where it covers no line."""
    place = {"loc": "lower right", "bbox_to_anchor": (1.02, 0.98), "ncols": 4}
    axis.legend(**place, fontsize="small", frameon=False, columnspacing=0.8, handlelength=1.0, handletextpad=0.4)


def _limit(rows: Rows, key: str) -> float | None:
    """Choose the upper end of an axis that begins at 0; None when there is nothing above 0."""
    highest = max((row.get(key) or 0.0 for row in rows), default=0.0)
    return 1.1 * highest if highest > 0 else None


def _marker(rows: Rows) -> dict[str, Any]:
    """Mark single epochs while there are few: one point alone is no line."""
    return {"marker": "."} if len(rows) <= _MAX_MARKED_EPOCHS else {}


def _epochs(rows: Rows) -> list[int]:
    return [row["epoch"] for row in rows]


def _has_any(rows: Rows, key: str) -> bool:
    return any(row.get(key) is not None for row in rows)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
