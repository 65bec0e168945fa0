import json
import math
import os
import threading

import pytest

from stu_pipeline.errors import NonFiniteError, StoppedError, StorageError
from stu_pipeline.log import Notice, Progress
from stu_pipeline.nnunet.events import EpochDone, StepsDone
from stu_pipeline.records import describe
from stu_pipeline.training.story.progress import RunStory, parse_epoch, read_metrics, read_status
from stu_pipeline.workspace import RunPaths


def make_event(epoch, **changes):
    values = {
        "epoch": epoch,
        "num_epochs": 10,
        "train_loss": -0.1 * epoch,
        "val_loss": float("nan"),
        "dice": {"liver": 0.5, "spleen": None},
        "mean_dice": 0.5,
        "ema_dice": 0.4,
        "learning_rate": 0.01,
        "elapsed_s": 2.0,
        "data_wait": 0.25,
        "is_best": True,
    }
    return EpochDone(**{**values, **changes})


def make_steps(step, **changes):
    values = {"epoch": 0, "num_epochs": 10, "num_steps": 250, "loss": 0.5, "step_s": 0.2, "data_wait": 0.1}
    return StepsDone(**{**values, "step": step, "eta_s": 60.0, **changes})


@pytest.fixture
def paths(tmp_path):
    return RunPaths(tmp_path)


def list_epochs(paths):
    return [json.loads(line)["epoch"] for line in paths.metrics.read_text(encoding="utf-8").splitlines()]


def write_epochs(paths, *epochs):
    """Write lines as a story does, without its picture (which takes longer than all else)."""
    rows = [describe(make_event(epoch)) for epoch in epochs]
    paths.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_every_epoch_is_one_line_of_valid_json(paths):
    story = RunStory(paths, first_epoch=0)
    for epoch in range(3):
        story.add(make_event(epoch))
    lines = paths.metrics.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2]
    assert "NaN" not in lines[0]


def test_the_picture_is_drawn_and_replaced(paths):
    story = RunStory(paths, first_epoch=0)
    story.add(make_event(0))
    assert not paths.progress_picture.exists()  # a run of seconds is drawn at its end
    story.plot()
    first = paths.progress_picture.read_bytes()
    assert first.startswith(b"\x89PNG")
    story.add(make_event(1, train_loss=5.0))
    assert paths.progress_picture.read_bytes() == first  # not again within the minute
    story.plot()
    assert paths.progress_picture.read_bytes() != first


def test_a_continued_run_drops_the_epochs_it_repeats(paths):
    write_epochs(paths, 0, 1, 2, 3)
    RunStory(paths, first_epoch=2).add(make_event(2, train_loss=7.0))
    rows = read_metrics(paths.metrics)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert rows[-1]["train_loss"] == 7.0


@pytest.mark.parametrize("torn", ['{"epoch": 1, "train', '{"epoch": 1}\n', "[]\n", "\0\0\0\0", "null\n"])
def test_a_cut_last_line_is_left_out_and_repaired(paths, torn):
    write_epochs(paths, 0, 1)
    with paths.metrics.open("a", encoding="utf-8") as stream:
        stream.write(torn)
    assert [row["epoch"] for row in read_metrics(paths.metrics)] == [0, 1]
    RunStory(paths, first_epoch=2)
    assert list_epochs(paths) == [0, 1]


def test_bytes_that_are_no_text_end_the_story_there(paths):
    write_epochs(paths, 0)
    with paths.metrics.open("ab") as stream:
        stream.write(b"\xff\xfe{")
    assert [row["epoch"] for row in read_metrics(paths.metrics)] == [0]


def test_no_file_gives_no_rows_and_no_status(paths):
    assert read_metrics(paths.metrics) == []
    assert read_status(paths) is None


def test_an_epoch_comes_back_from_its_line_as_it_was():
    event = make_event(3, gpu_memory_gib=8.5, overhead=0.01)
    line = json.dumps(describe(event))
    back = parse_epoch({**json.loads(line), "field_of_a_later_version": 1})
    assert math.isnan(back.val_loss)
    assert {**vars_of(back), "val_loss": 0} == {**vars_of(event), "val_loss": 0}


def vars_of(event):
    return {name: getattr(event, name) for name in EpochDone.__dataclass_fields__}


def test_a_line_of_an_older_version_is_an_epoch_without_the_new_numbers():
    row = {name: getattr(make_event(0), name) for name in list(EpochDone.__dataclass_fields__)[:12]}
    assert parse_epoch(row).gpu_memory_gib is None


def test_the_first_steps_are_told_at_once_and_later_ones_not_at_every_moment(paths):
    story = RunStory(paths, first_epoch=0)
    started = read_status(paths)
    assert started.state == "starting" and started.pid == os.getpid() and started.steps is None
    story.hear(make_steps(1))
    story.hear(make_steps(2))
    status = read_status(paths)
    assert status.state == "training" and status.steps == make_steps(1)


def test_the_status_is_always_complete_while_it_is_replaced(paths):
    story = RunStory(paths, first_epoch=0)
    stop = threading.Event()
    broken = []

    def read():
        while not stop.is_set():
            if read_status(paths) is None:
                broken.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    for index in range(200):
        story.hear(Notice(text=f"notice {index}"))
    stop.set()
    reader.join()
    assert broken == [] and read_status(paths).num_notices == 200
    assert [path.name for path in paths.folder.iterdir() if path.name.startswith(".stu-tmp")] == []


def test_the_validation_and_notices_are_part_of_the_status(paths):
    story = RunStory(paths, first_epoch=0)
    story.hear(make_steps(1))
    story.hear(Notice(text="micro-batch 1", is_warning=True))
    story.hear(Progress(step="validation", done=1, total=4, item="case_1"))
    status = read_status(paths)
    assert status.state == "validating" and status.progress == Progress(
        step="validation", done=1, total=4, item="case_1"
    )
    assert status.notice == Notice(text="micro-batch 1", is_warning=True) and status.num_notices == 1


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (None, "finished", ""),
        (StoppedError("stopped by signal 15", signal_number=15), "stopped", "signal 15"),
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt"),
        (NonFiniteError("loss is not finite"), "failed", "not finite"),
    ],
)
def test_the_end_of_a_run_is_noted_with_its_reason(paths, error, state, words):
    def run():
        with RunStory(paths, first_epoch=0) as story:
            story.hear(make_steps(1))
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)):
            run()
    status = read_status(paths)
    assert status.state == state and words in status.reason


def test_an_epoch_that_could_not_be_written_is_told_once_and_written_later(paths):
    told = []
    story = RunStory(paths, first_epoch=0, listen=told.append)
    story.add(make_event(0))
    kept = paths.metrics.read_bytes()
    paths.metrics.unlink()
    paths.metrics.mkdir()  # stands for any reason why a file cannot be written; root ignores permissions
    story.add(make_event(1))
    story.add(make_event(2))
    assert [event.is_warning for event in told] == [True] and "'metrics.jsonl' is not up to date" in told[0].text
    paths.metrics.rmdir()
    paths.metrics.write_bytes(kept[: len(kept) // 2])
    story.add(make_event(3))
    assert list_epochs(paths) == [0, 1, 2, 3] and len(told) == 1


def test_a_status_and_a_picture_that_cannot_be_written_stop_nothing(paths):
    told = []
    story = RunStory(paths, first_epoch=0, listen=told.append)
    paths.status.unlink()
    paths.status.mkdir()
    paths.progress_picture.mkdir()
    story.hear(make_steps(1))
    story.add(make_event(0))
    story.plot()
    story.close("finished")
    assert sorted(event.text.split("'")[1] for event in told) == ["progress.png", "status.json"]
    assert list_epochs(paths) == [0]


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    (tmp_path / "fold_0").write_text("a file", encoding="utf-8")
    with pytest.raises(StorageError):
        RunStory(RunPaths(tmp_path / "fold_0"), first_epoch=0)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"state": "training"}', '{"state": 1, "pid": "x"}'])
def test_a_status_that_cannot_be_understood_counts_as_none(paths, text):
    paths.status.write_text(text, encoding="utf-8")
    assert read_status(paths) is None


def test_trackers_get_every_epoch_and_are_closed_at_the_end(paths):
    class Listener:
        def __init__(self):
            self.heard = []

        def add(self, event):
            self.heard.append(event.epoch)

        def close(self):
            self.heard.append("closed")

    tracker = Listener()
    with RunStory(paths, first_epoch=0, trackers=[tracker]) as story:
        story.hear(make_event(0))
        story.hear(make_event(1))
    assert tracker.heard == [0, 1, "closed"]
