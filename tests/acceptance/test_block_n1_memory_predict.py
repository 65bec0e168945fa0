"""Block N1, prediction: the memory that is forecast is kept, and a limit that is too small is said before any work.

The peak is what the system counted of the process. A limit ends in exit 6 where no case fits it and in 10 where some
do; in no case does the system have to end the process.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.prediction_runs import Prediction, open_tiny_task
from tests.synthetic import write_volume

SIZES = {"small": (24, 44, 48), "middle": (64, 96, 96), "large": (120, 160, 160)}
PATCH = (64, 64, 64)
TOLERANCE = 1.25
GIB = 2**30
NUM_CASES = 3


@pytest.fixture(scope="module", params=[3, 40], ids=["3-labels", "40-labels"])
def task(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("task")
    labels = {"background": 0} | {f"label{index}": index for index in range(1, request.param + 1)}
    generator = np.random.default_rng(0)
    with open_tiny_task(root, num_cases=1, labels=labels, patch=PATCH, mirror_axes=()) as opened:
        for name, shape in SIZES.items():
            for index in range(NUM_CASES):
                voxels = generator.integers(-100, 200, shape).astype(np.int16)
                write_volume(root / name / f"{name}_{index}_0000.nii.gz", voxels, spacing_mm=(1.5, 0.9, 0.9))
                write_volume(root / "mixed" / f"{name}_{index}_0000.nii.gz", voxels, spacing_mm=(1.5, 0.9, 0.9))
        yield opened


def predict(task, place, name, **options):
    return Prediction(task, place / "out", {"-i": task.root / name, **options})


def read_forecast(prediction):
    dry = replace(prediction, options={**prediction.options, "--dry-run": None, "--json": None})
    said = dry.finish()
    assert not prediction.output.exists(), "a dry run makes nothing"
    return json.loads(said[said.index("{") : said.rindex("}") + 1])["forecast"]


def read_peak_gib(prediction):
    cases = json.loads((prediction.output / "predictions.json").read_text())["cases"]
    return max(entry["peak_memory_gib"] for entry in cases.values())


def mark(names):
    return [
        pytest.param(name, marks=pytest.mark.integration if name == "small" else pytest.mark.slow) for name in names
    ]


@pytest.mark.parametrize("name", mark(SIZES))
def test_the_peak_is_what_was_forecast(task, tmp_path, name):
    prediction = predict(task, tmp_path, name)
    forecast = read_forecast(prediction)
    assert [row[-1] for row in forecast["rows"]] == ["yes"] * NUM_CASES
    # With that as its limit nothing is refused.
    said = predict(task, tmp_path, name, **{"--max-ram": forecast["peak_gib"] * 1.05}).finish()
    assert read_peak_gib(prediction) <= forecast["peak_gib"] * TOLERANCE, said
    assert len(prediction.list_masks()) == NUM_CASES


@pytest.mark.slow
def test_a_limit_between_costs_what_does_not_fit_and_nothing_else(task, tmp_path):
    prediction = predict(task, tmp_path, "mixed")
    rows = {
        row[0]: float(row[3]) for row in read_forecast(predict(task, tmp_path, "mixed", **{"--workers": 0}))["rows"]
    }
    limit = (rows["middle_0"] + rows["large_0"]) / 2
    assert rows["large_0"] - rows["middle_0"] > 0.03
    limited = predict(task, tmp_path, "mixed", **{"--max-ram": limit})
    said = limited.finish(10)
    fitting = {f"{name}_{index}.nii.gz" for name in ("small", "middle") for index in range(NUM_CASES)}
    assert set(prediction.list_masks()) == fitting
    assert f"{NUM_CASES} of {3 * NUM_CASES} cases failed" in " ".join(said.split())
    # With more memory the same command makes the rest.
    predict(task, tmp_path, "mixed").finish()
    assert len(prediction.list_masks()) == 3 * NUM_CASES


@pytest.mark.parametrize("name", mark(["small", "mixed"]))
@pytest.mark.parametrize("limit", [0.001, 0.1])
def test_a_limit_that_nothing_fits_is_exit_6_before_any_work(task, tmp_path, name, limit):
    prediction = predict(task, tmp_path, name, **{"--max-ram": limit})
    text = " ".join(prediction.finish(6).split())
    assert "GiB of memory, the limit is" in text and "--max-ram" in text
    assert not prediction.list_masks()
    cases = json.loads((prediction.output / "predictions.json").read_text())["cases"]
    assert {entry["status"] for entry in cases.values()} == {"failed"}
