"""Block H1, training: a disk that fills up is exit 5, damages nothing, and the same command goes on later.

A limit on the size of files is the full disk that needs no rights.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import pytest

from tests.training_runs import Training, act_at, hash_files, read_intact

# Around the sizes of what a training writes: plan and record, slim checkpoint, full checkpoint.
LIMITS = (0, 1, 100, 512, 1024, 2048, 4096, 16_384, 65_536, 131_072, 196_608, 262_144, 327_680)
FAST = {131_072}
NO_SPACE = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
# What it says goes into a file too; a process from before the limit writes it.
SPEAK = """
import os, subprocess
speaker = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
for number in (1, 2):
    os.dup2(speaker.stdin.fileno(), number)
speaker.stdin.close()
"""
STEPS_DONE = 5


@pytest.fixture(scope="module")
def stopped(tiny, tmp_path_factory):
    """A training that was stopped in its second epoch. Read-only."""
    training = Training(tiny, tmp_path_factory.mktemp("stopped"))
    stop = act_at(f"torch.optim.SGD.step {STEPS_DONE}", f"os.kill(os.getpid(), {int(signal.SIGTERM)})")
    assert training.start(prelude=stop).wait() == 143
    return training


def mark_slow(values, fast):
    return [pytest.param(v, marks=pytest.mark.integration if v in fast else pytest.mark.slow) for v in values]


def run_limited(training, prelude):
    """Run a training whose prelude sets the limit; return exit code and what it said."""
    started = training.start(prelude=SPEAK + prelude)
    code = started.wait()
    started.require_gone()
    assert "Traceback" not in started.output, started.output
    return code, started.output


def require_full(training, prelude):
    """Run it into the full disk: exit 5 with a reason, nothing damaged, nothing left."""
    code, output = run_limited(training, prelude)
    assert code == 5, output
    text = " ".join(output.split())
    assert "no space left to write" in text and "GiB free" in text and "run the same command again" in text, output
    training.require_intact()
    assert not training.list_leftovers()


@pytest.mark.parametrize("limit", mark_slow(LIMITS, FAST))
def test_a_disk_that_is_full_from_the_start_damages_nothing(tiny, reference, tmp_path, limit):
    training = Training(tiny, tmp_path)
    require_full(training, NO_SPACE.format(limit=limit))
    training.require_end(reference)


@pytest.mark.parametrize("limit", mark_slow(LIMITS, FAST))
def test_a_disk_that_fills_up_between_two_runs_costs_no_checkpoint(stopped, reference, tmp_path, limit):
    shutil.copytree(stopped.results, tmp_path / "results")
    training = Training(stopped.dataset, tmp_path / "results")
    before = {path.name: path.read_bytes() for path in training.list_checkpoints()}
    reached = training.require_intact()
    require_full(training, NO_SPACE.format(limit=limit))
    assert {path.name: path.read_bytes() for path in training.list_checkpoints()} == before
    assert training.require_intact() == reached
    training.require_end(reference)


POINTS = {
    "second checkpoint": "os.replace 1 checkpoint_latest.pth",
    "fourth checkpoint": "os.replace 3 checkpoint_latest.pth",
    "best": "os.replace 4 checkpoint_latest.pth",
    "final": "os.replace 8 checkpoint_latest.pth",
    "validation": "os.replace 1 checkpoint_final.pth",
}


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 256, 150_000, 250_000])
@pytest.mark.parametrize("point", POINTS)
def test_a_disk_that_fills_up_during_a_training_damages_nothing(tiny, reference, tmp_path, point, limit):
    training = Training(tiny, tmp_path)
    prelude = act_at(POINTS[point], NO_SPACE.format(limit=limit))
    if point == "validation" and limit > 256:
        code, output = run_limited(training, prelude)
        assert code == 0, output  # its masks are smaller
    else:
        require_full(training, prelude)
    training.require_end(reference)


@pytest.mark.slow
def test_a_full_disk_leaves_the_model_of_the_other_folds_alone(tiny, tmp_path):
    first = Training(tiny, tmp_path)
    first.finish()
    before = hash_files(first.model_folder)
    for limit in (0, 100, 1024):
        require_full(Training(tiny, tmp_path, {"--fold": 1}), NO_SPACE.format(limit=limit))
        now = hash_files(first.model_folder, without=("fold_1/*", "fold_1/**/*"))
        assert now == before, f"the full disk of fold 1 changed what fold 0 needs (limit {limit})"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 20 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(place)], check=False)
    if made.returncode != 0:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_without_room_for_the_checkpoints_is_refused_before_the_first_step(tiny, small_disk):
    training = Training(tiny, small_disk / "results")
    output = " ".join(training.finish(5).split())
    assert "the checkpoints of this run need" in output and "GiB are free" in output
    assert not training.list_checkpoints() and "epoch 1/" not in output


@pytest.mark.slow
def test_a_disk_that_really_is_full_costs_no_checkpoint(tiny, stopped, reference, small_disk):
    """Filled up while the training is at work, after its check."""
    shutil.copytree(stopped.results, small_disk / "results")
    subprocess.run(["mount", "-o", "remount,size=80m", str(small_disk)], check=True)
    training = Training(stopped.dataset, small_disk / "results")
    fill = f"open({str(small_disk / 'ballast')!r}, 'wb').write(bytes(200 << 20))"
    started = training.start(prelude=act_at("torch.optim.SGD.step 2", f"\n    try: {fill}\n    except OSError: pass"))
    assert started.wait() == 5, started.output
    (small_disk / "ballast").unlink()
    epoch, step = training.require_intact()
    assert (epoch, step) >= (1, 2)
    assert read_intact(training.list_checkpoints()[0])
    training.require_end(reference)
