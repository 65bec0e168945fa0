"""Following a run of another process from its files."""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import pytest

from stu_pipeline.errors import DataError, ModelError, UsageError
from stu_pipeline.log import Notice, Progress
from stu_pipeline.nnunet.events import EpochDone, StepsDone
from stu_pipeline.storage import hold_lock, write_json
from stu_pipeline.training.config import TrainConfig
from stu_pipeline.training.story.progress import RunStatus
from stu_pipeline.training.story.watch import find_run, follow_run
from stu_pipeline.workspace import RunPaths, use_workspace
from tests.planned import write_planned_dataset
from tests.training_events import make_epoch

POLL_S = 0.01


@pytest.fixture
def paths(tmp_path):
    folder = tmp_path / "nnUNetTrainer__stuSPlans__3d_fullres" / "fold_0"
    folder.mkdir(parents=True)
    return RunPaths(folder)


def make_steps(epoch, step):
    return StepsDone(
        epoch=epoch, num_epochs=30, step=step, num_steps=250, loss=0.1, step_s=0.2, data_wait=0.02, eta_s=99.0
    )


def write_epochs(paths, epochs):
    lines = [json.dumps(dataclasses.asdict(make_epoch(epoch))) + "\n" for epoch in epochs]
    paths.metrics.write_text("".join(lines), encoding="utf-8")


def write_status(paths, state, *, age_s=0.0, **changes):
    status = RunStatus(state=state, pid=4711, host="node7", written_s=time.time() - age_s, **changes)
    write_json(paths.status, dataclasses.asdict(status))


def finish(paths):
    paths.checkpoint("final").write_bytes(b"")
    paths.validation_summary.parent.mkdir(exist_ok=True)
    write_json(paths.validation_summary, {"foreground_mean": {"Dice": 0.875}})


def follow(paths, heard=None, **changes):
    listen = (lambda event: None) if heard is None else heard.append
    return follow_run(paths, fold=0, listen=listen, poll_s=POLL_S, **changes)


def test_a_folder_where_nobody_trained_is_refused_with_the_way_to_train(paths):
    with pytest.raises(ModelError, match=r"nobody has trained fold 0 of 'nnUNetTrainer__stuSPlans") as caught:
        follow(paths)
    assert "without --watch" in caught.value.hint and list(paths.folder.iterdir()) == []


def test_a_finished_run_shows_its_last_ten_epochs_and_its_score(paths):
    write_epochs(paths, range(30))
    write_status(paths, "finished", age_s=1e6)
    finish(paths)
    heard = []
    result = follow(paths, heard)
    assert [event.epoch for event in heard] == list(range(20, 30))
    assert result.mean_dice == 0.875 and result.num_epochs == 30 and result.run_folder == paths.folder


def test_a_run_of_a_version_without_status_can_be_looked_at(paths):
    write_epochs(paths, range(3))
    finish(paths)
    assert follow(paths).num_epochs == 3


def test_a_run_that_was_killed_is_told_with_where_it_stood(paths):
    write_epochs(paths, range(12))
    write_status(paths, "training", age_s=100.0, steps=make_steps(12, 40))
    paths.lock.write_text("4711 on node7", encoding="utf-8")  # the file stays, the lock went with the process
    heard = []
    with pytest.raises(ModelError, match=r"process 4711 on node7 is gone.* after epoch 12 of 30") as caught:
        follow(paths, heard)
    assert "to continue" in caught.value.hint
    assert heard[-1] == make_steps(12, 40)


def test_a_run_that_just_spoke_is_given_time(paths):
    write_status(paths, "training", steps=make_steps(0, 1))
    start = time.monotonic()
    with pytest.raises(ModelError, match="before its first epoch"):
        follow(paths, silent_s=0.3)
    assert time.monotonic() - start >= 0.25


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_a_run_that_ended_early_is_told_with_its_reason(paths, state):
    write_status(paths, state, reason="stopped by signal 15 at epoch 3, state saved")
    with pytest.raises(ModelError, match=f"not finished, {state}: stopped by signal 15"):
        follow(paths)


def test_a_silent_run_whose_process_is_there_is_told_once_and_followed_on(paths):
    heard = []
    follower = threading.Thread(target=follow, args=(paths, heard), kwargs={"silent_s": 5.0})
    with hold_lock(paths.lock, what="fold 0"):
        write_status(paths, "training", age_s=100.0, steps=make_steps(0, 1))
        follower.start()
        time.sleep(20 * POLL_S)
        finish(paths)
    follower.join(timeout=10)
    notices = [event.text for event in heard if isinstance(event, Notice)]
    assert len(notices) == 1 and "no news for 100 s" in notices[0] and not follower.is_alive()


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_running_training_is_heard_from_its_start_to_its_end(paths):
    heard = []
    results = []
    follower = threading.Thread(target=lambda: results.append(follow(paths, heard)))
    with hold_lock(paths.lock, what="fold 0"):
        write_status(paths, "starting")
        follower.start()
        wait_for(lambda: heard)
        assert "process 4711 on node7 is starting" in heard[0].text
        write_status(paths, "training", steps=make_steps(0, 1))
        wait_for(lambda: make_steps(0, 1) in heard)
        write_epochs(paths, range(1))
        wait_for(lambda: make_epoch(0) in heard)
        warning = Notice(text="micro-batch 1 from here on", is_warning=True)
        write_status(paths, "training", steps=make_steps(1, 5), notice=warning, num_notices=1)
        wait_for(lambda: make_steps(1, 5) in heard and warning in heard)
        write_epochs(paths, range(2))
        write_status(paths, "validating", progress=Progress(step="validation", done=1, total=2))
        wait_for(lambda: isinstance(heard[-1], Progress))
        finish(paths)
        write_status(paths, "finished")
    follower.join(timeout=10)
    assert results[0].mean_dice == 0.875
    assert [event.epoch for event in heard if isinstance(event, EpochDone)] == [0, 1]
    assert sum(isinstance(event, Notice) for event in heard) == 2


def test_a_run_that_continues_from_an_older_checkpoint_repeats_its_epochs(paths):
    heard = []
    follower = threading.Thread(target=follow, args=(paths, heard))
    with hold_lock(paths.lock, what="fold 0"):
        write_status(paths, "training")
        write_epochs(paths, range(3))
        follower.start()
        wait_for(lambda: len(heard) == 3)
        write_epochs(paths, range(1))
        time.sleep(5 * POLL_S)
        write_epochs(paths, range(2))
        wait_for(lambda: len(heard) == 4)
        finish(paths)
        write_status(paths, "finished")
    follower.join(timeout=10)
    assert [event.epoch for event in heard] == [0, 1, 2, 1]


def test_watching_neither_writes_nor_keeps_the_lock(paths):
    write_epochs(paths, range(2))
    finish(paths)
    paths.lock.write_text("", encoding="utf-8")
    before = sorted(path.name for path in paths.folder.rglob("*"))
    follow(paths)
    with hold_lock(paths.lock, what="fold 0"):
        pass
    assert sorted(path.name for path in paths.folder.rglob("*")) == [name for name in before if name != ".lock"]


def test_the_run_is_found_as_the_training_finds_it(tmp_path):
    dataset = write_planned_dataset(tmp_path)
    with use_workspace(tmp_path):
        found = find_run(TrainConfig(dataset=dataset.name, fold=2))
        assert found.folder == dataset.model_folder("stuSPlans", "3d_fullres") / "fold_2"
        with pytest.raises(UsageError):
            find_run(TrainConfig(dataset=dataset.name, fold=5))
        with pytest.raises(ModelError):
            find_run(TrainConfig(dataset=dataset.name, plan_name="gonePlans"))
        with pytest.raises(DataError):
            find_run(TrainConfig(dataset="Dataset002_Gone"))
