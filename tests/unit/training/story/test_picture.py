"""`progress.png`: whatever the epochs hold, there is a picture, and it is cheap."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
from PIL import Image

from stu_pipeline.training.story.picture import draw_progress


def make_rows(num_epochs, *, labels=("liver", "spleen"), **changes):
    return [
        {
            "epoch": epoch,
            "num_epochs": 1000,
            "train_loss": -0.5 - epoch / 2000,
            "val_loss": -0.4 - epoch / 2000,
            "dice": {name: 0.3 + index / 1000 for index, name in enumerate(labels)},
            "mean_dice": 0.4,
            "ema_dice": 0.4,
            "learning_rate": 0.01,
            "elapsed_s": 60.0 if epoch else 400.0,
            "data_wait": 0.02,
            "is_best": epoch % 3 == 0,
            "num_skipped_steps": 0,
            **changes,
        }
        for epoch in range(num_epochs)
    ]


GPU = {"gpu_memory_gib": 8.5, "gpu_utilization": 0.95, "overhead": 0.01, "images_per_s": 9.0, "ema_weights_dice": 0.5}


@pytest.mark.parametrize(
    "rows",
    [
        [],
        make_rows(1, **dict.fromkeys(GPU)),
        make_rows(60, **GPU),
        make_rows(3, labels=[f"label {index}" for index in range(104)]),
        make_rows(3, labels=["$a", "_hidden", "x$y$z", "\\frac{", "a" * 80]),
        make_rows(
            3,
            labels=(),
            train_loss=None,
            val_loss=None,
            mean_dice=None,
            ema_dice=None,
            learning_rate=0.0,
            elapsed_s=0.0,
        ),
    ],
    ids=["none", "one", "gpu", "many labels", "odd names", "nothing to draw"],
)
def test_any_story_has_a_picture(tmp_path, rows):
    path = tmp_path / "progress.png"
    draw_progress(rows, path, title="fold 0 of $plan_x")
    with Image.open(path) as picture:
        assert picture.size == (1300, 760)
    assert [file.name for file in tmp_path.iterdir()] == ["progress.png"]


def count_colour(path, colour):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - np.array(colour)).max(axis=-1) < 40).sum())


def test_time_spent_waiting_is_orange(tmp_path):
    draw_progress(make_rows(50, data_wait=0.0), tmp_path / "none.png")
    draw_progress(make_rows(50, data_wait=0.6), tmp_path / "much.png")
    orange = (255, 127, 14)
    assert count_colour(tmp_path / "much.png", orange) > count_colour(tmp_path / "none.png", orange) + 10_000


def test_a_thousand_epochs_cost_less_than_a_second_of_the_processor(tmp_path):
    rows = make_rows(1000, labels=[f"label {index}" for index in range(10)], **GPU)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        draw_progress(rows, tmp_path / "warm.png")
    start = time.process_time()
    draw_progress(rows, tmp_path / "progress.png")
    assert time.process_time() - start < 1.0  # 0.2 s on one free core
