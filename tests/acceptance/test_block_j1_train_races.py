"""Blocks J1 and J2: several trainings of one fold, several folds at once, and locks that were left behind.

Of several processes on one fold exactly one trains; the others leave with 7 and name it. Folds do not disturb
each other. A lock that nobody holds never blocks, whatever is in its file.
"""

from __future__ import annotations

import os
import platform
import signal
import time

import pytest

from stu_pipeline.storage import hold_lock
from tests.training_runs import Training, act_at, read_outcome, require_equal

NUM_RACES = 10
LIMIT_S = 5.0
# The winner works for longer than a busy machine keeps the others from asking.
LINGER = act_at("torch.optim.SGD.step 1", "__import__('time').sleep(4)")


@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=pytest.mark.slow if n else pytest.mark.integration) for n in range(NUM_RACES)]
)
def test_one_of_several_trains_a_fold_and_the_others_name_it(tiny, reference, tmp_path, number):
    training = Training(tiny, tmp_path)
    began_s = time.monotonic()
    racers = [training.start(prelude=LINGER) for _ in range(2 + number % 3)]
    while sum(racer.poll() is None for racer in racers) > 1:
        assert time.monotonic() - began_s < LIMIT_S, "a loser does not leave"
        time.sleep(0.01)
    codes = [racer.wait() for racer in racers]
    assert sorted(codes) == [0] + [7] * (len(racers) - 1), [racer.output for racer in racers]
    (winner,) = [racer for racer, code in zip(racers, codes, strict=True) if code == 0]
    for racer in racers:
        if racer is not winner:
            text = " ".join(racer.output.split())
            assert f"fold 0 of '{training.model_folder.name}' is in use by process {winner.pid} on " in text
            assert "hint: wait for it, or stop it" in text
    require_equal(read_outcome(training), reference)
    training.require_clean()


@pytest.mark.integration
def test_three_folds_train_at_the_same_time(tiny, reference, tmp_path):
    trainings = [Training(tiny, tmp_path, {"--fold": fold}) for fold in range(3)]
    started = [training.start() for training in trainings]
    assert [one.wait() for one in started] == [0, 0, 0], [one.output for one in started]
    require_equal(read_outcome(trainings[0]), reference)
    for training in trainings:
        training.require_intact()
        training.require_clean()
        assert "already complete" in training.finish()


@pytest.mark.slow
def test_folds_that_train_together_come_to_what_they_come_to_alone(tiny, tmp_path):
    together = [Training(tiny, tmp_path / "together", {"--fold": fold}) for fold in range(3)]
    for one in [training.start() for training in together]:
        assert one.wait() == 0, one.output
    for fold, training in enumerate(together):
        alone = Training(tiny, tmp_path / str(fold), {"--fold": fold})
        alone.finish()
        require_equal(read_outcome(training), read_outcome(alone))


@pytest.mark.slow
@pytest.mark.parametrize("rule", [(signal.SIGKILL, -9), (signal.SIGTERM, 143)], ids=["killed", "stopped"])
def test_who_waited_can_train_when_the_winner_is_gone(tiny, reference, tmp_path, rule):
    number, code = rule
    training = Training(tiny, tmp_path)
    winner = training.start(prelude=act_at("torch.optim.SGD.step 3", "__import__('time').sleep(3)"))
    assert winner.wait_until(lambda: "starting" in winner.output)
    training.finish(7)
    winner.send(number)
    assert winner.wait() == code, winner.output
    training.require_end(reference)


HOST = platform.node()
# Who a lock file may name although nobody holds it.
STALE = {
    "empty": "",
    "dead process": f"4194000 on {HOST} since 2020-01-01 00:00:00 UTC",
    "number of a living process": f"{os.getpid()} on {HOST} since 2020-01-01 00:00:00 UTC",
    "another machine": "17 on somewhere-else since 2020-01-01 00:00:00 UTC",
    "junk": "\0\1\2 no lock at all",
    "large": "x" * 100_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("content", STALE.values(), ids=STALE)
def test_a_stale_lock_blocks_nobody(tiny, reference, tmp_path, content):
    training = Training(tiny, tmp_path)
    training.paths.folder.mkdir(parents=True)
    training.paths.lock.write_text(content)
    training.require_end(reference)


@pytest.mark.integration
def test_a_lock_that_is_held_stops_a_training_before_it_writes(tiny, tmp_path):
    training = Training(tiny, tmp_path)
    with hold_lock(training.paths.lock, what="this test"):
        output = " ".join(training.finish(7).split())
        assert {path.name for path in training.paths.folder.iterdir()} == {".lock"}
    assert f"is in use by process {os.getpid()} on " in output


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "link to nowhere"])
def test_something_else_in_the_place_of_the_lock_is_a_storage_problem(tiny, tmp_path, kind):
    training = Training(tiny, tmp_path / "r")
    lock = training.paths.lock
    lock.parent.mkdir(parents=True)
    if kind == "folder":
        lock.mkdir()
    else:
        lock.symlink_to(tmp_path / "nowhere" / "lock")
    assert "error: cannot write '.lock'" in training.finish(5)
