import json

import pytest

from stu_pipeline.nnunet.events import EpochDone
from stu_pipeline.training.progress import RunStory, read_metrics
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


@pytest.fixture
def paths(tmp_path):
    return RunPaths(tmp_path)


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
    first = paths.progress_picture.read_bytes()
    assert first.startswith(b"\x89PNG")
    story.add(make_event(1, train_loss=5.0))
    story.plot()
    assert paths.progress_picture.read_bytes() != first


def test_a_continued_run_drops_the_epochs_it_repeats(paths):
    story = RunStory(paths, first_epoch=0)
    for epoch in range(4):
        story.add(make_event(epoch))
    RunStory(paths, first_epoch=2).add(make_event(2, train_loss=7.0))
    rows = read_metrics(paths.metrics)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert rows[-1]["train_loss"] == 7.0


def test_a_cut_last_line_is_left_out(paths):
    RunStory(paths, first_epoch=0).add(make_event(0))
    with paths.metrics.open("a", encoding="utf-8") as stream:
        stream.write('{"epoch": 1, "train')
    assert [row["epoch"] for row in read_metrics(paths.metrics)] == [0]


def test_no_file_gives_no_rows(paths):
    assert read_metrics(paths.metrics) == []
