"""Blocks F3 and F5: kill -9 during a prediction, at random moments and at chosen ones, alone and in chains.

After every kill each mask under its final name is whole and known by its hash, and the same command ends with the
folder of a prediction that was never killed, times apart. What was finished is not done again.
"""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.prediction_runs import Prediction, open_tiny_task, read_outcome

NUM_TIMES, NUM_CHAINS, KILLS_PER_CHAIN = 30, 10, 5


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    with open_tiny_task(tmp_path_factory.mktemp("task")) as opened:
        yield opened


@pytest.fixture(scope="module")
def reference(task, tmp_path_factory):
    prediction = Prediction(task, tmp_path_factory.mktemp("reference") / "out")
    prediction.finish()
    assert not [path.name for path in prediction.output.iterdir() if path.name.startswith(".")]
    return read_outcome(prediction)


@pytest.fixture(scope="module")
def duration_s(task, reference, tmp_path_factory):
    """How long a prediction takes; the first of a process takes longer."""
    start = time.monotonic()
    Prediction(task, tmp_path_factory.mktemp("duration") / "out").finish()
    return time.monotonic() - start


def mark_slow(values, num_fast):
    """The first ones belong to every run, the others to the slow tier. Tuples are several parameters."""
    marked = []
    for index, value in enumerate(values):
        parts = value if isinstance(value, tuple) else (value,)
        marks = pytest.mark.integration if index < num_fast else pytest.mark.slow
        marked.append(pytest.param(*parts, marks=marks))
    return marked


@pytest.mark.parametrize("seed", mark_slow(range(NUM_TIMES), 2))
def test_a_kill_at_a_random_time_costs_nothing_that_was_finished(task, reference, duration_s, tmp_path, seed):
    # Every third one prepares its cases in the main thread.
    prediction = Prediction(task, tmp_path / "out", {"--workers": 0} if seed % 3 == 2 else {})
    kill_at_random(prediction, random.Random(seed), duration_s)
    prediction.require_end(reference, prediction.require_intact(reference))


def kill_at_random(prediction, generator, duration_s):
    started = prediction.start()
    deadline = time.monotonic() + generator.uniform(0, duration_s)
    started.wait_until(lambda: time.monotonic() >= deadline)
    started.kill()


CALLED_POINTS = [
    "replace after case_001.nii.gz 1",  # the mask has its name, the folder is not flushed
    "fsync after .predictions.journal 2",  # announced, and no name yet
    "unlink before .predictions.journal 1",  # the report is written: both say the same
    "fsync before .predictions.journal 1",  # a line that is not flushed
    "fsync before .predictions.journal 3",
    "fsync after .predictions.journal 1",
    "fsync after .predictions.journal 4",
    "replace before case_000.nii.gz 1",
    "replace before case_003.nii.gz 1",
    "replace after case_000.nii.gz 1",
    "replace after case_003.nii.gz 1",  # the last mask
    "fsync before .stu-tmp-case_001.nii.gz-* 1",
    "fsync after .stu-tmp-case_001.nii.gz-* 1",
    "unlink before .stu-tmp-case_002.nii.gz-* 1",
    "fsync before .stu-tmp-predictions.json-* 1",
    "replace before predictions.json 1",
    "replace after predictions.json 1",
    "replace before predictions.csv 1",
    "replace after predictions.csv 1",
    "replace before predictions.md 1",
    "replace after predictions.md 1",
    "unlink after .predictions.journal 1",
    "replace before plans.json 1",
    "replace after plans.json 1",
    "replace before dataset.json 1",
    "replace before run.json 1",
    "replace after run.json 1",
    "unlink before .lock 1",
    "unlink after .lock 1",
]
"""Too short to be seen: the process is killed at a system call of its own."""


@pytest.mark.parametrize("call", mark_slow(CALLED_POINTS, 3))
def test_a_kill_at_a_system_call_costs_nothing_that_was_finished(task, reference, tmp_path, call):
    prediction = Prediction(task, tmp_path / "out")
    started = prediction.start(KILL_AT_CALL=call)
    assert started.wait() == -signal.SIGKILL, f"it was not killed: {started.output}"
    started.require_gone()
    prediction.require_end(reference, prediction.require_intact(reference))


def is_locked(prediction, count):
    return (prediction.output / ".lock").exists()


def is_writing(prediction, count):
    return len(list(prediction.output.glob(".stu-tmp-case_*"))) > 0 and len(prediction.list_masks()) >= count


def is_announced(prediction, count):
    try:
        return (prediction.output / ".predictions.journal").read_bytes().count(b"\n") >= count
    except FileNotFoundError:
        return False


def is_named(prediction, count):
    return len(prediction.list_masks()) >= count


SEEN_POINTS = [
    *((is_announced, count) for count in (1, 3, 2, 4)),
    *((is_named, count) for count in (1, 2, 3, 4)),
    *((is_writing, count) for count in (0, 2)),
    (is_locked, 0),
]
"""Looked for every 2 ms."""


@pytest.mark.parametrize(("is_reached", "count"), mark_slow(SEEN_POINTS, 1))
def test_a_kill_at_a_point_that_is_seen_costs_nothing_that_was_finished(task, reference, tmp_path, is_reached, count):
    # A busy machine can miss a moment; then the run ends, is right, and we try again.
    for attempt in range(10):
        prediction = Prediction(task, tmp_path / str(attempt) / "out")
        started = prediction.start()
        is_killed = started.wait_until(lambda prediction=prediction: is_reached(prediction, count))
        started.kill()
        prediction.require_end(reference, prediction.require_intact(reference))
        if is_killed:
            return
    pytest.fail("the point was not seen in 10 runs")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(NUM_CHAINS))
def test_five_kills_in_a_row_cost_nothing_that_was_finished(task, reference, duration_s, tmp_path, seed):
    generator = random.Random(1000 + seed)
    prediction = Prediction(task, tmp_path / "out")
    finished: dict[str, tuple[int, int]] = {}
    for _ in range(KILLS_PER_CHAIN):
        kill_at_random(prediction, generator, duration_s * 0.7)
        now = prediction.require_intact(reference)
        assert finished.items() <= now.items(), "a kill cost masks that were finished"
        finished = now
    prediction.require_end(reference, finished)


EXTRA_POINTS = {
    "npz": ["replace after case_001.npz 1", "replace before case_001.pkl 1", "replace before case_001.nii.gz 1"],
    "zarr": ["replace after case_001.zarr* 1", "fsync after .predictions.journal 2"],
    "labels": ["replace after label1.nii.gz 2", "replace before label2.nii.gz 2", "fsync after .predictions.journal 2"],
}
OPTIONS = {
    "npz": {"--probabilities": "npz"},
    "zarr": {"--probabilities": "zarr"},
    "labels": {"--per-label-files": None},
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "call"), [(kind, call) for kind, calls in EXTRA_POINTS.items() for call in calls])
def test_a_kill_between_a_mask_and_what_belongs_to_it_is_made_good(task, reference, tmp_path, kind, call):
    prediction = Prediction(task, tmp_path / "out", OPTIONS[kind])
    started = prediction.start(KILL_AT_CALL=call)
    assert started.wait() == -signal.SIGKILL, f"it was not killed: {started.output}"
    finished = prediction.require_intact(reference)
    prediction.finish()
    now = prediction.require_intact(reference)
    assert finished.items() <= now.items() and len(now) == 4
    names = [path.name for path in prediction.output.rglob("*")]
    assert not [name for name in names if name.startswith(".")]
    num_extra = sum(name.startswith("case_") and not name.endswith(".nii.gz") for name in names)
    assert num_extra == (8 if kind == "npz" else 4)
    assert "4 of 4 cases are done already" in prediction.finish()


@pytest.mark.slow
@pytest.mark.parametrize("call", ["fsync after .predictions.journal 2", "replace after case_001.nii.gz 1"])
def test_a_kill_while_masks_are_replaced_leaves_none_that_is_unknown(task, reference, tmp_path, call):
    prediction = Prediction(task, tmp_path / "out")
    prediction.finish()
    again = Prediction(task, tmp_path / "out", {"--step": 0.9, "--overwrite": None})
    started = again.start(KILL_AT_CALL=call)
    assert started.wait() == -signal.SIGKILL, f"it was not killed: {started.output}"
    proofs = again.read_proofs()
    from stu_pipeline.storage import hash_file

    assert all(hash_file(path) in proofs[name] for name, path in again.list_masks().items())
    again.finish()
    Prediction(task, tmp_path / "out", {"--overwrite": None}).finish()
    prediction.require_intact(reference)
