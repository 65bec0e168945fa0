"""Block G1: SIGTERM, SIGINT and SIGUSR1 in every phase of a training, once and twice, to it alone and to its group.

A stop saves at the next step and leaves with 143 or 130 within 30 s; SIGUSR1 saves and goes on. No process of the
training is left, and the same command ends as if nothing had happened, to the last bit.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass

import pytest

from stu_pipeline.training.run.signals import ONE_STOP_S
from tests.training_runs import NUM_STEPS, Training, act_at, hash_files

LIMIT_S = 30.0
CODES = {signal.SIGTERM: (143, -signal.SIGTERM), signal.SIGINT: (130, -signal.SIGINT)}
"""As the shell sees them: ended by our own exit, or by the signal itself."""
RARELY = {"--checkpoint-minutes": 60}


@dataclass(frozen=True)
class Phase:
    """A moment in the life of a training.

    Args:
        point: the call at which it is, as `act_at` wants it.
        step: the step, counted from the start, from which it must go on at the latest; None when it was trained.
    """

    name: str
    point: str
    step: int | None
    is_always_saving: bool = False


PHASES = [
    Phase("opening", "torch.optim.SGD.__init__ 1", 0),
    Phase("first step", "torch.optim.SGD.step 1", 1),
    Phase("mid-epoch", "torch.optim.SGD.step 3", 3),
    Phase("online validation", "torch.nn.functional.conv3d 3 no_grad", NUM_STEPS),
    Phase("second epoch", "torch.optim.SGD.step 6", NUM_STEPS + 2),
    Phase("during a save", "os.fsync 2 .stu-tmp-checkpoint_latest.pth-*", 2, is_always_saving=True),
    Phase("between save and name", "os.replace 3 checkpoint_latest.pth", 3, is_always_saving=True),
    Phase("final save", "os.replace 1 checkpoint_final.pth", None),
    Phase("final validation", "os.replace 1 case_000.nii.gz", None),
]
FAST = {("mid-epoch", signal.SIGTERM, True), ("online validation", signal.SIGINT, False)}
STOPS = [
    pytest.param(
        phase, number, to_group, id=f"{phase.name}-{number.name}-{'group' if to_group else 'main'}",
        marks=pytest.mark.integration if (phase.name, number, to_group) in FAST else pytest.mark.slow,
    )
    for phase in PHASES for number in CODES for to_group in (False, True)
]  # fmt: skip


def send(number, *, to_group):
    return f"os.killpg(os.getpgrp(), {int(number)})" if to_group else f"os.kill(os.getpid(), {int(number)})"


def stop(training, phase, action):
    """Run a training that does something to itself in a phase; return its exit code and what it said."""
    started = training.start(prelude=act_at(phase.point, action))
    start = time.monotonic()
    code = started.wait(LIMIT_S + 30)
    assert time.monotonic() - start < LIMIT_S
    started.require_gone()
    assert "bug" not in started.output and "Traceback" not in started.output, started.output
    return code, started.output


def make_training(tiny, root, phase, *, has_worker):
    options = {} if phase.is_always_saving else RARELY
    return Training(tiny, root, {**options, "--workers": int(has_worker)})


@pytest.mark.parametrize(("phase", "number", "to_group"), STOPS)
def test_a_stop_saves_and_the_same_command_goes_on(tiny, reference, tmp_path, phase, number, to_group):
    training = make_training(tiny, tmp_path, phase, has_worker=to_group)
    code, output = stop(training, phase, send(number, to_group=to_group))
    assert code == CODES[number][0], output
    assert "hint: run the same command to continue" in output
    assert not training.list_leftovers()
    reached = training.require_intact()
    if phase.step is None:
        assert training.paths.checkpoint("final").is_file()
    else:
        assert reached is not None and reached[0] * NUM_STEPS + reached[1] >= phase.step
        assert f"stopped by signal {int(number)} at epoch {reached[0]}, state saved" in output
    output = training.require_end(reference)
    after = f" after step {reached[1]}" if reached[1] else ""
    assert phase.step is None or f"at epoch {reached[0]}{after}: " in output


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_a_signal_that_arrives_twice_at_once_is_one_stop(tiny, reference, tmp_path, phase, number):
    """Ctrl-C and Slurm reach a process directly and through its parent."""
    training = make_training(tiny, tmp_path, phase, has_worker=True)
    code, output = stop(training, phase, f"{send(number, to_group=True)}; {send(number, to_group=True)}")
    assert code == CODES[number][0], output
    training.require_intact()
    training.require_end(reference)


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_a_second_signal_ends_it_at_once_and_damages_nothing(tiny, reference, tmp_path, phase, number):
    training = Training(tiny, tmp_path, {"--workers": 1})
    pause = f"__import__('time').sleep({ONE_STOP_S + 0.3})"
    code, output = stop(training, phase, f"{send(number, to_group=True)}; {pause}; {send(number, to_group=True)}")
    assert code in CODES[number], output
    assert code < 0 or "state saved" in output  # a save is on its way: it may be done before
    training.require_intact()
    training.require_end(reference)


SAVES = [
    pytest.param(phase, to_group, id=f"{phase.name}-{'group' if to_group else 'main'}",
                 marks=pytest.mark.integration if phase.name == "mid-epoch" and to_group else pytest.mark.slow)
    for phase in PHASES for to_group in (False, True)
]  # fmt: skip


@pytest.mark.parametrize(("phase", "to_group"), SAVES)
def test_sigusr1_saves_and_goes_on(tiny, reference, tmp_path, phase, to_group):
    training = make_training(tiny, tmp_path, phase, has_worker=to_group)
    code, output = stop(training, phase, send(signal.SIGUSR1, to_group=to_group))
    assert code == 0, output
    training.require_end(reference)  # it says that it is complete
    if phase.step is not None and not phase.is_always_saving:
        require_saved_where_asked(Training(tiny, tmp_path / "killed", training.options), phase)


def require_saved_where_asked(training, phase):
    """Ask for a checkpoint, and pull the plug two steps later."""
    asked = act_at(phase.point, f"os.kill(os.getpid(), {int(signal.SIGUSR1)})")
    last = act_at(f"torch.optim.SGD.step {phase.step + 3}", f"os.kill(os.getpid(), {int(signal.SIGKILL)})")
    started = training.start(prelude=f"exec({asked!r}, {{}})\nexec({last!r}, {{}})")
    if phase.step + 3 <= 2 * NUM_STEPS:
        assert started.wait() == -signal.SIGKILL, started.output
        epoch, step = training.require_intact()
        assert phase.step <= epoch * NUM_STEPS + step <= phase.step + 1
    else:
        assert started.wait() == 0


IMPORTS_S = (0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("after_s", IMPORTS_S)
def test_a_stop_while_everything_is_imported_is_no_bug(tiny, reference, tmp_path, number, after_s):
    training = Training(tiny, tmp_path, {**RARELY, "--workers": 1})
    started = training.start(is_cold=True)
    time.sleep(after_s)
    sent = time.monotonic()
    started.send(number, to_group=True)
    code = started.wait(LIMIT_S + 30)
    assert time.monotonic() - sent < LIMIT_S
    started.require_gone()
    assert code in CODES[number], started.output
    assert "this is a bug" not in started.output, started.output
    training.require_intact()
    training.require_end(reference)


@pytest.mark.slow
@pytest.mark.parametrize("number", (*CODES, signal.SIGUSR1), ids=lambda number: number.name)
def test_a_signal_while_it_leaves_takes_nothing_back(tiny, reference, tmp_path, number):
    training = Training(tiny, tmp_path)
    phase = Phase("leaving", "os.unlink 1 .lock", None)
    code, output = stop(training, phase, send(number, to_group=False))
    assert code in (0, *CODES.get(number, ())), output
    files = hash_files(training.paths.folder, without=(".lock",))
    assert "already complete" in training.require_end(reference)
    assert hash_files(training.paths.folder) == files
