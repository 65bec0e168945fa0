"""Blocks F2 and F5: kill -9 during a training, at random moments and at chosen ones, alone and in chains.

After every kill whatever has its final name is complete, and the same command ends with weights, momentum and
training log that are equal to the last bit to those of a training that was never killed.
"""

from __future__ import annotations

import random
import signal
import time

import pytest
import torch

from tests.training_runs import NUM_STEPS, Training, hash_files, read_outcome, require_equal

NUM_TIMES, NUM_CHAINS, KILLS_PER_CHAIN = 30, 10, 5
LOSES_ONE_STEP = 1


@pytest.fixture(scope="module")
def inputs(tiny):
    return {folder: hash_files(folder) for folder in (tiny.raw, tiny.preprocessed)}


@pytest.fixture(scope="module")
def duration_s(tiny, undisturbed, tmp_path_factory):
    """How long a training takes; the first of a process takes longer."""
    start = time.monotonic()
    Training(tiny, tmp_path_factory.mktemp("duration")).finish()
    return time.monotonic() - start


def require_same_end(training, reached, reference, inputs):
    """Run the command again and compare everything; `reached` is where the farthest checkpoint stood."""
    was_trained = training.paths.checkpoint("final").is_file()
    output = training.require_end(reference)
    if reached is not None and not was_trained:
        place = training.read_record()["continued_from"]
        assert (place["epoch"], place["step"]) == reached, output
    for folder, files in inputs.items():
        assert hash_files(folder) == files, "the inputs were changed"


def mark_slow(values, num_fast):
    return [pytest.param(v, marks=pytest.mark.integration if i < num_fast else pytest.mark.slow)
            for i, v in enumerate(values)]  # fmt: skip


@pytest.mark.parametrize("seed", mark_slow(range(NUM_TIMES), 1))
def test_a_kill_at_a_random_time_loses_nothing(tiny, reference, inputs, duration_s, tmp_path, seed):
    # Every third one has a process that reads for it.
    training = Training(tiny, tmp_path, {"--workers": 1} if seed % 3 == 2 else {})
    kill_at_random(training, random.Random(seed), duration_s)
    require_same_end(training, training.require_intact(), reference, inputs)


def kill_at_random(training, generator, duration_s):
    started = training.start()
    deadline = time.monotonic() + generator.uniform(0, duration_s)
    started.wait_until(lambda: time.monotonic() >= deadline)
    started.kill()


CALLED_POINTS = [
    "replace before checkpoint_latest.pth 3",  # between save and rename: the newest name is not there
    "replace before checkpoint_final.pth 1",
    "unlink before checkpoint_latest.pth 2",  # clean-up; the first call is that of the start
    "replace before checkpoint_latest.pth 1",
    "replace after checkpoint_latest.pth 1",
    "replace after checkpoint_latest.pth 2",
    "replace after checkpoint_latest.pth 8",  # after the last step of the training
    "replace before checkpoint_latest.previous.pth 1",
    "replace after checkpoint_latest.previous.pth 1",
    "replace before checkpoint_latest.previous2.pth 1",
    "replace after checkpoint_latest.previous2.pth 1",
    "fsync before .stu-tmp-checkpoint_latest.pth-* 1",
    "fsync after .stu-tmp-checkpoint_latest.pth-* 5",
    "unlink before .stu-tmp-checkpoint_latest.pth-* 4",
    "replace before checkpoint_best.pth 1",
    "replace after checkpoint_best.pth 2",
    "fsync before .stu-tmp-checkpoint_final.pth-* 1",
    "replace after checkpoint_final.pth 1",
    "unlink after checkpoint_latest.pth 2",
    "unlink before checkpoint_latest.previous2.pth 2",
    "replace before run.json 1",
    "replace after run.json 1",
    "fsync before metrics.jsonl 1",
    "fsync after metrics.jsonl 2",
    "replace before progress.png 1",
    "replace before case_000.nii.gz 1",  # a mask of the validation
    "replace after case_000.nii.gz 1",
    "replace before summary.json 1",
    "replace after summary.json 1",
    "unlink before .lock 1",
]
"""Too short to be seen: the process is killed at a system call of its own."""


@pytest.mark.parametrize("call", mark_slow(CALLED_POINTS, 3))
def test_a_kill_at_a_system_call_loses_nothing(tiny, reference, inputs, tmp_path, call):
    training = Training(tiny, tmp_path)
    started = training.start(KILL_AT_CALL=call)
    assert started.wait() == -signal.SIGKILL, f"it was not killed: {started.output}"
    started.require_gone()
    require_same_end(training, training.require_intact(), reference, inputs)


def is_first_temporary(training, count):
    return any(training.paths.folder.glob(".stu-tmp-checkpoint_*"))


def is_temporary_growing(training, count):
    return any(_measure(path) > count for path in training.paths.folder.glob(".stu-tmp-checkpoint_*"))


def is_temporary_of_second(training, count):
    return training.paths.checkpoint("latest").is_file() and is_temporary_growing(training, count)


def is_validating(training, count):
    return (training.paths.folder / "validation").is_dir() and training.paths.checkpoint("final").is_file()


def _measure(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


SEEN_POINTS = [
    (is_first_temporary, 0),
    (is_temporary_growing, 0),
    (is_temporary_growing, 100_000),
    (is_temporary_of_second, 0),
    (is_temporary_of_second, 100_000),
    (is_validating, 0),
]
"""Looked for every 2 ms."""


@pytest.mark.slow
@pytest.mark.parametrize(("is_reached", "count"), SEEN_POINTS)
def test_a_kill_at_a_point_that_is_seen_loses_nothing(tiny, reference, inputs, tmp_path, is_reached, count):
    # A busy machine can miss a moment; then the run ends, is right, and we try again.
    for attempt in range(10):
        training = Training(tiny, tmp_path / str(attempt))
        started = training.start()
        is_killed = started.wait_until(lambda training=training: is_reached(training, count))
        started.kill()
        require_same_end(training, training.require_intact(), reference, inputs)
        if is_killed:
            return
    pytest.fail("the point was not seen in 10 runs")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(NUM_CHAINS))
def test_five_kills_in_a_row_lose_nothing(tiny, reference, inputs, duration_s, tmp_path, seed):
    generator = random.Random(1000 + seed)
    training = Training(tiny, tmp_path)
    reached = None
    for _ in range(KILLS_PER_CHAIN):
        kill_at_random(training, generator, duration_s * 0.7)
        now = training.require_intact()
        assert reached is None or (now is not None and now >= reached), "a kill cost steps that were saved"
        reached = now
    require_same_end(training, reached, reference, inputs)


@pytest.mark.integration
def test_a_whole_command_that_is_killed_loses_one_step_at_most(tiny, reference, inputs, tmp_path):
    """A new Python with a process that reads for it, killed when three steps are saved."""
    training = Training(tiny, tmp_path, {"--workers": 1})
    started = training.start(is_cold=True, KILL_AT_CALL="replace after checkpoint_latest.pth 3")
    assert started.wait() == -signal.SIGKILL, started.output
    started.kill()
    epoch, step = training.require_intact()
    assert epoch * NUM_STEPS + step >= 3 - LOSES_ONE_STEP
    require_same_end(training, (epoch, step), reference, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["final", "ema"])
def test_averaged_weights_survive_a_kill_at_the_end(tiny, tmp_path, kind, when):
    undisturbed = Training(tiny, tmp_path / "undisturbed", {"--ema": 0.9})
    undisturbed.finish()
    training = Training(tiny, tmp_path / "killed", {"--ema": 0.9})
    started = training.start(KILL_AT_CALL=f"replace {when} checkpoint_{kind}.pth 1")
    assert started.wait() == -signal.SIGKILL, started.output
    training.finish()
    require_equal(read_outcome(training), read_outcome(undisturbed))
    expected = undisturbed.read_checkpoint("ema")["network_weights"]
    found = training.read_checkpoint("ema")["network_weights"]
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
