"""How a training is shown: a live table on a terminal, lines where nobody looks at one."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import sys
import threading

import pytest

from stu_pipeline.cli.train_view import TrainingView, describe_epoch, describe_steps
from stu_pipeline.log import Notice, Progress
from stu_pipeline.nnunet.events import CheckpointWritten, EpochDone, StepsDone

LABELS = {"liver": 0.9, "spleen": None}


def make_epoch(epoch, **changes):
    values = {
        "epoch": epoch,
        "num_epochs": 20,
        "train_loss": -0.5,
        "val_loss": -0.4,
        "dice": LABELS,
        "mean_dice": 0.9,
        "ema_dice": 0.8,
        "learning_rate": 0.01,
        "elapsed_s": 60.0,
        "data_wait": 0.02,
        "is_best": epoch == 3,
    }
    return EpochDone(**{**values, **changes})


def make_steps(step, **changes):
    values = {"epoch": 0, "num_epochs": 20, "num_steps": 250, "loss": -0.25, "step_s": 0.21, "data_wait": 0.04}
    return StepsDone(**{**values, "step": step, "eta_s": 7200.0, **changes})


def test_the_time_left_is_there_with_the_first_steps_and_then_not_at_every_moment(capfd, make_console):
    with TrainingView(make_console()) as view:
        for step in range(1, 100):
            view.listen(make_steps(step))
        view.listen(make_epoch(0))
        view.listen(make_steps(1, epoch=1))
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0] == "epoch 1/20  step 1/250  loss -0.2500, 0.21 s/step, 4% waiting, 2 h 00 min left"
    assert lines[1].startswith("epoch 1/20  loss -0.5000 / -0.4000")


def test_steps_are_a_line_after_a_minute(capfd, make_console, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with TrainingView(make_console()) as view:
        for seconds in (0, 59, 60, 61, 119, 120):
            now[0] = 1000.0 + seconds
            view.listen(make_steps(seconds + 1))
    steps = re.findall(r"step (\d+)/250", capfd.readouterr().err)
    assert steps == ["1", "61", "121"]


def test_what_is_not_known_is_left_out_of_a_line():
    assert describe_steps(make_steps(1, loss=None, eta_s=None)).endswith("step 1/250  0.21 s/step, 4% waiting")
    assert "GPU" not in describe_epoch(make_epoch(0), left_s=None)
    line = describe_epoch(make_epoch(0, gpu_memory_gib=8.44, gpu_utilization=0.931), left_s=30.0)
    assert line.endswith("60.0 s, 2% waiting, GPU 8.4 GiB, 93% busy, 30 s left")


def test_one_long_epoch_does_not_spoil_the_time_left(capfd, make_console):
    with TrainingView(make_console()) as view:
        for epoch in range(10):
            view.listen(make_epoch(epoch, elapsed_s=60.0 if epoch else 6000.0))
    assert "10 min 00 s left" in capfd.readouterr().err.splitlines()[-1]


def test_quiet_is_quiet(capfd, make_console):
    with TrainingView(make_console(verbosity=-1)) as view:
        view.listen(make_steps(1))
        view.listen(make_epoch(0))
        view.listen(Notice(text="starting"))
    assert capfd.readouterr().err == ""


class Terminal:
    """A terminal that keeps what is written to it."""

    def __init__(self):
        self._master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self._parts = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        try:
            while part := os.read(self._master, 65536):
                self._parts.append(part)
        except OSError:  # the other end is closed
            pass

    def finish(self):
        self.stream.close()
        self._reader.join(timeout=10)
        os.close(self._master)
        return b"".join(self._parts).decode("utf-8")


@pytest.fixture
def show(monkeypatch, make_console):
    """Show events on a terminal of some width; returns all that was written there."""

    def run(events, *, width=130, ends_with=None, **options):
        terminal = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal.stream)
            patch.setenv("COLUMNS", str(width))
            patch.setenv("TERM", "xterm-256color")
            console = make_console(**options)
            with contextlib.suppress(KeyboardInterrupt), TrainingView(console) as view:
                for event in events:
                    view.listen(event)
                if ends_with is not None:
                    raise ends_with
            console.close()
            console.talk.close()
        return terminal.finish()

    return run


@pytest.fixture
def coloured(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


SHOW_CURSOR = "\x1b[?25h"


def list_frames(text):
    """Cut the output where the table is drawn anew, and take the colours out."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return [frame for frame in re.split(r"(?:\r?\x1b\[2K(?:\x1b\[1A)?)+", plain) if frame.strip()]


def test_a_terminal_shows_the_last_epochs_and_the_steps_of_the_current_one(show, coloured):
    events = [make_epoch(epoch, gpu_memory_gib=8.5, gpu_utilization=0.95) for epoch in range(12)]
    text = show(
        [*events, make_steps(100, epoch=12), CheckpointWritten(kind="latest", epoch=12, size_mib=180, elapsed_s=1)]
    )
    frame = list_frames(text)[-1]
    assert "12/20" in frame and "3/20" in frame and " 2/20" not in frame
    for word in ("loss", "Dice", "liver", "spleen", "GiB", "busy", "8.5", "95%", "*"):
        assert word in frame
    assert "epoch 13/20" in frame and "100/250" in frame and "2 h 00 min left" in frame and "(180 MiB)" in frame
    assert SHOW_CURSOR in text.split("180 MiB")[-1]


@pytest.mark.parametrize(("width", "has_labels"), [(130, True), (80, False)])
def test_labels_are_shown_while_there_is_room_and_nothing_is_cut(show, coloured, width, has_labels):
    frame = list_frames(show([make_epoch(0, num_epochs=1000, gpu_memory_gib=70.5, gpu_utilization=1.0)], width=width))[
        -1
    ]
    assert ("liver" in frame) == has_labels and "\u2026" not in frame
    assert max(len(line) for line in frame.splitlines()) <= width


def test_a_notice_stays_above_the_table(show, coloured):
    text = show([make_epoch(0), Notice(text="loss of [red]case_7[/red]\x1b[2J", is_warning=True), make_epoch(1)])
    assert "warning: loss of [red]case_7[/red]\\x1b[2J" in text


def test_the_validation_takes_the_place_of_the_steps(show, coloured):
    text = show(
        [make_epoch(19), Progress(step="validation", done=1, total=2), Progress(step="validation", done=2, total=2)]
    )
    frame = list_frames(text)[-1]
    assert "20/20" in frame and "validation" in frame and "2/2" in frame and " left" not in frame


def test_a_table_that_is_begun_while_output_is_redirected_changes_no_stream(show, coloured, tmp_path):
    before = sys.stdout, sys.stderr

    def events():
        with (tmp_path / "run.log").open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield make_epoch(19)
            yield Progress(step="validation", done=1, total=1)

    show(events())
    assert (sys.stdout, sys.stderr) == before


def test_the_cursor_comes_back_when_the_training_fails(show, coloured):
    text = show([make_epoch(0)], ends_with=KeyboardInterrupt())
    assert text.rindex(SHOW_CURSOR) > text.rindex("1/20")


def test_no_color_is_honoured(show, coloured, monkeypatch):
    has_colour = re.compile(r"\x1b\[[0-9;]*(3[0-7]|9[0-7]|38;5;\d+)m")
    assert has_colour.search(show([make_epoch(0), make_steps(5, epoch=1)]))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colour.search(show([make_epoch(0), make_steps(5, epoch=1)]))


def test_with_the_log_on_the_screen_there_is_no_table(show, coloured):
    text = show([make_epoch(0), make_epoch(1)], verbosity=1)
    assert "\x1b[2K" not in text and text.count("epoch ") == 2


def test_quiet_shows_nothing_on_a_terminal_either(show, coloured):
    assert show([make_epoch(0), make_steps(1)], verbosity=-1) == ""
