"""Block G1, prediction: SIGTERM and SIGINT in every phase, to it alone and to its group.

It leaves with 143 or 130 within 30 s, no temporary file and no process is left, what was finished stays proven, and
the same command ends as if nothing had happened.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass

import pytest

from tests.prediction_runs import Prediction, open_tiny_task, read_outcome
from tests.training_runs import act_at

LIMIT_S = 30.0
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


@dataclass(frozen=True)
class Phase:
    """A moment in the life of a prediction.

    Args:
        point: the call at which it is, as `act_at` wants it.
        num_done: masks that must be there at least.
    """

    name: str
    point: str
    num_done: int


PHASES = [
    Phase("first tile", "torch.nn.Module.__call__ 1", 0),
    Phase("later tile", "torch.nn.Module.__call__ 60", 0),
    Phase("mask is written", "os.fsync 2 .stu-tmp-case_*.nii.gz-*", 1),
    Phase("mask is announced", "os.fsync 3 .predictions.journal", 2),
    Phase("mask gets its name", "os.replace 3 case_*.nii.gz", 2),
    Phase("report is written", "os.replace 1 predictions.json", 4),
    Phase("tables are written", "os.replace 1 predictions.md", 4),
    Phase("record is written", "os.replace 1 run.json", 4),
]
FAST = {("mask gets its name", signal.SIGTERM, False), ("first tile", signal.SIGINT, True)}
STOPS = [
    pytest.param(
        phase, number, to_group, id=f"{phase.name}-{number.name}-{'group' if to_group else 'main'}",
        marks=pytest.mark.integration if (phase.name, number, to_group) in FAST else pytest.mark.slow,
    )
    for phase in PHASES for number in CODES for to_group in (False, True)
]  # fmt: skip


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    with open_tiny_task(tmp_path_factory.mktemp("task")) as opened:
        yield opened


@pytest.fixture(scope="module")
def reference(task, tmp_path_factory):
    prediction = Prediction(task, tmp_path_factory.mktemp("reference") / "out")
    prediction.finish()
    return read_outcome(prediction)


def send(number, *, to_group):
    return f"os.killpg(os.getpgrp(), {int(number)})" if to_group else f"os.kill(os.getpid(), {int(number)})"


def stop(prediction, phase, action):
    """Run a prediction that does something to itself in a phase; return its exit code and what it said."""
    started = prediction.start(prelude=act_at(phase.point, action))
    start = time.monotonic()
    code = started.wait(LIMIT_S + 30)
    assert time.monotonic() - start < LIMIT_S
    started.require_gone()
    assert "bug" not in started.output and "Traceback" not in started.output, started.output
    left = [path.name for path in prediction.output.glob(".*") if path.name != ".predictions.journal"]
    assert not left
    return code, started.output


@pytest.mark.parametrize(("phase", "number", "to_group"), STOPS)
def test_a_stop_keeps_what_is_finished(task, reference, tmp_path, phase, number, to_group):
    prediction = Prediction(task, tmp_path / "out", {"--workers": 0} if to_group else {})
    code, said = stop(prediction, phase, send(number, to_group=to_group))
    assert code == CODES[number], said
    assert "Cases" not in said.splitlines()[-1], "the last word is why it ended"
    masks = prediction.require_intact(reference)
    assert len(masks) >= phase.num_done
    prediction.require_end(reference, masks)


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_a_signal_that_arrives_twice_damages_nothing(task, reference, tmp_path, phase, number):
    """Ctrl-C and Slurm reach a process directly and through its parent; the second may end it at once."""
    prediction = Prediction(task, tmp_path / "out")
    started = prediction.start(prelude=act_at(phase.point, f"{send(number, to_group=True)}; " * 2))
    code = started.wait(LIMIT_S)
    assert code in (CODES[number], -int(number)), started.output
    started.require_gone()
    prediction.require_end(reference, prediction.require_intact(reference))


@pytest.mark.slow
def test_sigusr1_changes_nothing(task, reference, tmp_path):
    prediction = Prediction(task, tmp_path / "out")
    code, said = stop(prediction, PHASES[2], send(signal.SIGUSR1, to_group=True))
    assert code == 0, said
    assert all(path.suffix != ".journal" for path in prediction.output.iterdir())
    prediction.require_end(reference, prediction.stamp_masks())
