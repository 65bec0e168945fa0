"""Block H1, prediction: a disk that fills up is exit 5, damages nothing, and the same command goes on later.

A limit on the size of files is the full disk that needs no rights.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.prediction_runs import SPEAK, Prediction, open_tiny_task, read_outcome
from tests.training_runs import act_at

# Around the sizes of what a prediction writes: lines of the journal, masks, record, plan, report.
LIMITS = (0, 1, 64, 128, 256, 300, 350, 512, 700, 1024, 1500, 1900)
FAST = {64}
NO_SPACE = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    with open_tiny_task(tmp_path_factory.mktemp("task")) as opened:
        yield opened


@pytest.fixture(scope="module")
def reference(task, tmp_path_factory):
    prediction = Prediction(task, tmp_path_factory.mktemp("reference") / "out")
    prediction.finish()
    sizes = [path.stat().st_size for path in prediction.output.iterdir()]
    assert max(sizes) > max(LIMITS), "a limit that nothing reaches tests nothing"
    return read_outcome(prediction)


def mark_slow(values, fast):
    return [pytest.param(v, marks=pytest.mark.integration if v in fast else pytest.mark.slow) for v in values]


def require_full(prediction, reference, prelude):
    """Run it into the full disk: exit 5 with a reason, nothing damaged, nothing left; return the masks."""
    started = prediction.start(prelude=SPEAK + prelude)
    code = started.wait()
    started.require_gone()
    assert code == 5 and "Traceback" not in started.output, started.output
    text = " ".join(started.output.split())
    assert "GiB free" in text and "run the same command again" in text, started.output
    masks = prediction.require_intact(reference)
    left = [path.name for path in prediction.output.iterdir() if ".stu-tmp-" in path.name or path.name == ".lock"]
    assert not left
    return masks


@pytest.mark.parametrize("limit", mark_slow(LIMITS, FAST))
def test_a_disk_that_is_full_from_the_start_damages_nothing(task, reference, tmp_path, limit):
    prediction = Prediction(task, tmp_path / "out")
    masks = require_full(prediction, reference, NO_SPACE.format(limit=limit))
    prediction.require_end(reference, masks)


POINTS = {
    "journal": "os.fsync 3 .predictions.journal",
    "mask": "os.replace 2 case_*.nii.gz",
    "report": "os.replace 1 predictions.json",
    "tables": "os.replace 1 predictions.csv",
    "record": "os.replace 1 run.json",
}
NUM_KEPT = {"journal": 2, "mask": 2, "report": 4, "tables": 4, "record": 4}


@pytest.mark.parametrize("limit", [pytest.param(x, marks=pytest.mark.slow) for x in (0, 128)])
@pytest.mark.parametrize("point", POINTS)
def test_a_disk_that_fills_up_during_a_prediction_keeps_what_is_done(task, reference, tmp_path, point, limit):
    prediction = Prediction(task, tmp_path / "out")
    prelude = SPEAK + act_at(POINTS[point], NO_SPACE.format(limit=limit))
    started = prediction.start(prelude=prelude)
    code = started.wait()
    assert "Traceback" not in started.output, started.output
    # After the last write there is nothing left to fail.
    assert code == 5 or point == "record", started.output
    masks = prediction.require_intact(reference)
    assert len(masks) >= NUM_KEPT[point]
    prediction.require_end(reference, masks)


@pytest.mark.slow
def test_probabilities_that_do_not_fit_leave_no_mask(task, reference, tmp_path):
    prediction = Prediction(task, tmp_path / "out", {"--probabilities": "npz"})
    masks = require_full(prediction, reference, NO_SPACE.format(limit=4096))
    assert not masks
    prediction.finish()
    assert len(prediction.require_intact(reference)) == 4


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 KB beside what is on it."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)], check=False)
    if made.returncode != 0:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_really_is_full_costs_no_mask_that_is_done(task, reference, small_disk, tmp_path):
    prediction = Prediction(task, small_disk / "out", said=tmp_path)
    started = prediction.start()
    assert started.wait() == 5 and "GiB free" in started.output, started.output
    masks = prediction.require_intact(reference)
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    prediction.require_end(reference, masks)
