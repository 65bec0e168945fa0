"""How a training is shown while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import statistics
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Self

from stu_pipeline.cli.console import Console, escape_controls, format_seconds
from stu_pipeline.log import Notice, Progress
from stu_pipeline.nnunet.events import CheckpointWritten, EpochDone, StepsDone

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table

_NUM_EPOCHS_SHOWN = 10
_MAX_LABELS = 6
_LABEL_WIDTH = 12
_FIXED_WIDTH = 70  # of all columns but those of the labels
_STEPS_INTERVAL_S = 60.0
_NUM_EPOCHS_AVERAGED = 20


class TrainingView:
    """Shows the events of one training.

    Inside a `with` block and on a terminal it is a table of the last epochs and a bar of the current one,
    redrawn when something happens. Elsewhere each epoch is a line, and the steps are one at most every minute.

    Args:
        console: where to.
        prefix: before every line, where several trainings speak at the same time.
    """

    def __init__(self, console: Console, *, prefix: str = "") -> None:
        self._console = console
        self._prefix = prefix
        self._is_live = False
        self._live: Live | None = None
        self._epochs: deque[EpochDone] = deque(maxlen=_NUM_EPOCHS_AVERAGED)
        self._steps: StepsDone | None = None
        self._progress: Progress | None = None
        self._checkpoint = ""
        self._line_s = -_STEPS_INTERVAL_S

    def __enter__(self) -> Self:
        """Begin one training."""
        self._epochs.clear()
        self._steps, self._progress, self._checkpoint = None, None, ""
        # Log records are written straight to the terminal and would tear a live table.
        self._is_live = self._console.verbosity == 0 and self._console.talk.isatty()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last picture on the terminal and give the cursor back."""
        self._stop()
        self._is_live = False

    def listen(self, event: object) -> None:
        """Render one event."""
        if isinstance(event, EpochDone):
            self._epochs.append(event)
            self._steps = self._progress = None
        elif isinstance(event, StepsDone):
            self._steps, self._progress = event, None
        elif isinstance(event, Progress):
            self._steps, self._progress = None, event
        elif isinstance(event, CheckpointWritten):
            self._checkpoint = f"checkpoint at {time.strftime('%H:%M')} ({event.size_mib:.0f} MiB)"
        self._show_live(event) if self._is_live else self._show_line(event)

    def _show_line(self, event: object) -> None:
        if isinstance(event, EpochDone):
            self._console.say(self._prefix + describe_epoch(event, left_s=self._estimate_left()))
            self._line_s = time.monotonic()
        elif isinstance(event, StepsDone):
            if time.monotonic() - self._line_s >= _STEPS_INTERVAL_S:
                self._console.say(self._prefix + describe_steps(event))
                self._line_s = time.monotonic()
        else:
            self._console.listen(event)

    def _show_live(self, event: object) -> None:
        if isinstance(event, Notice) and self._live is not None:
            text = f"warning: {event.text}" if event.is_warning else event.text
            self._live.console.print(escape_controls(text), markup=False, highlight=False)
        elif isinstance(event, (EpochDone, StepsDone, CheckpointWritten, Progress)):
            self._draw()
        else:
            self._console.listen(event)

    def _draw(self) -> None:
        if not self._epochs and self._steps is None and self._progress is None:
            return
        if self._live is None:
            from rich.console import Console as Terminal
            from rich.live import Live

            self._console.close()
            # Nothing moves between two events. Streams stay as they are: the engine's output is sent elsewhere
            # while it works, and whoever changes them inside that time brings back a closed file at its end.
            self._live = Live(
                console=Terminal(file=self._console.talk, highlight=False),
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._live.update(self._render(self._live.console.width), refresh=True)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _render(self, width: int) -> RenderableType:
        from rich.console import Group

        parts: list[RenderableType] = (
            [_tabulate(list(self._epochs)[-_NUM_EPOCHS_SHOWN:], width)] if self._epochs else []
        )
        if self._steps is not None:
            parts.append(_draw_steps(self._steps, width))
        if self._progress is not None:
            parts.append(_draw_bar(self._progress.step, self._progress.done, self._progress.total, width))
        left = self._steps.eta_s if self._steps is not None else self._estimate_left()
        facts = [f"{format_seconds(left)} left"] if left is not None and self._progress is None else []
        parts.append("  ".join([*facts, *([self._checkpoint] if self._checkpoint else [])]))
        return Group(*parts)

    def _estimate_left(self) -> float | None:
        if not self._epochs:
            return None
        last = self._epochs[-1]
        # Not the mean: the first epoch, and any in which the machine slept, is far longer.
        typical = statistics.median(event.elapsed_s for event in self._epochs)
        return typical * (last.num_epochs - last.epoch - 1)


def describe_epoch(event: EpochDone, *, left_s: float | None) -> str:
    """Write one epoch as a line: loss, Dice per label, seconds, what they went into, time left."""
    dice = " ".join(f"{name} {format_dice(value)}" for name, value in list(event.dice.items())[:_MAX_LABELS])
    more = f" (+{len(event.dice) - _MAX_LABELS} labels)" if len(event.dice) > _MAX_LABELS else ""
    parts = [f"{event.elapsed_s:.1f} s", f"{event.data_wait:.0%} waiting"]
    parts += [f"GPU {event.gpu_memory_gib:.1f} GiB"] if event.gpu_memory_gib is not None else []
    parts += [f"{event.gpu_utilization:.0%} busy"] if event.gpu_utilization is not None else []
    parts += [f"{format_seconds(left_s)} left"] if left_s is not None else []
    skipped = f", {event.num_skipped_steps} steps skipped" if event.num_skipped_steps else ""
    return (
        f"epoch {event.epoch + 1}/{event.num_epochs}  loss {event.train_loss:.4f} / {event.val_loss:.4f}  "
        f"Dice {format_dice(event.mean_dice)} [{dice}{more}]  "
        f"{', '.join(parts)}{'  *' if event.is_best else ''}{skipped}"
    )


def describe_steps(event: StepsDone) -> str:
    """Write the steps of the current epoch as a line."""
    loss = "" if event.loss is None else f"loss {event.loss:.4f}, "
    left = "" if event.eta_s is None else f", {format_seconds(event.eta_s)} left"
    return (
        f"epoch {event.epoch + 1}/{event.num_epochs}  step {event.step}/{event.num_steps}  "
        f"{loss}{event.step_s:.3g} s/step, {event.data_wait:.0%} waiting{left}"
    )


def format_dice(value: float | None) -> str:
    """Write a Dice value, or `-` for none."""
    return "-" if value is None else f"{value:.3f}"


def _tabulate(events: list[EpochDone], width: int) -> Table:
    """Put epochs into a table no wider than the terminal: labels are shown while there is room."""
    from rich.table import Table
    from rich.text import Text

    last = events[-1]
    num_labels = min(_MAX_LABELS, len(last.dice), max(0, (width - _FIXED_WIDTH) // (_LABEL_WIDTH + 1)))
    names = list(last.dice)[:num_labels]
    has_gpu = last.gpu_memory_gib is not None
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ["epoch", "loss", "val loss", "Dice", "average", *names, "s", "wait"]
    for column in [*columns, *(["GiB", "busy"] if has_gpu else []), ""]:
        table.add_column(Text(escape_controls(column)), justify="right", max_width=_LABEL_WIDTH, no_wrap=True)
    for event in events:
        cells = [f"{event.epoch + 1}/{event.num_epochs}", f"{event.train_loss:.4f}", f"{event.val_loss:.4f}"]
        cells += [format_dice(value) for value in (event.mean_dice, event.ema_dice)]
        cells += [format_dice(event.dice.get(name)) for name in names]
        cells += [f"{event.elapsed_s:.1f}", f"{event.data_wait:.0%}"]
        cells += [_format(event.gpu_memory_gib, ".1f"), _format(event.gpu_utilization, ".0%")] if has_gpu else []
        marks = ("*" if event.is_best else "") + (f" {event.num_skipped_steps} skipped" * (event.num_skipped_steps > 0))
        table.add_row(*cells, marks)
    return table


def _draw_steps(event: StepsDone, width: int) -> Table:
    loss = "" if event.loss is None else f"loss {event.loss:.4f}"
    facts = (loss, f"{event.step_s:.3g} s/step", f"{event.data_wait:.0%} waiting")
    return _draw_bar(f"epoch {event.epoch + 1}/{event.num_epochs}", event.step, event.num_steps, width, facts=facts)


def _draw_bar(title: str, done: int, total: int, width: int, *, facts: tuple[str, ...] = ()) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(1, total), completed=done, width=max(5, min(30, width - 60)))
    line.add_row(escape_controls(title), bar, f"{done}/{total}", *facts)
    return line


def _format(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
