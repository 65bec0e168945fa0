"""Block G2, loader: kill -9 of a training leaves none of its loader's processes alive after ten seconds."""

from __future__ import annotations

import os
import pickle
import random
import signal
import time

import pytest

from stu_pipeline.training.sampling.crop import CropRule
from tests.kills import list_processes, python_command, require_no_process
from tests.unit.training.sampling.tiny_cases import make_source, write_cases

LIMIT_S = 10.0
# Two loaders, as in a training; opened by the main thread, whose end the kernel tells, or by another one.
SCRIPT = """
import pickle, sys, threading, time
from contextlib import ExitStack
from pathlib import Path
from stu_pipeline.training.sampling.loader import SampleLoader

def run():
    source = pickle.loads(Path(sys.argv[1]).read_bytes())
    with ExitStack() as stack:
        loaders = [
            stack.enter_context(SampleLoader(source, slots=(0, 1), num_workers=2, phase=phase, seed=0))
            for phase in ("train", "validation")
        ]
        print("started", flush=True)
        for step in range(10**6):
            for loader in loaders:
                loader.take(step)
            print(step, flush=True)
            time.sleep(float(sys.argv[3]))

if __name__ == "__main__":
    if sys.argv[2] == "thread":
        threading.Thread(target=run).start()
        time.sleep(600)
    run()
"""


def kill_and_look(tmp_path, place, *, moment, pause_s=0.0, hangs=False):
    source = make_source(tmp_path, write_cases(tmp_path), rule=CropRule(batch=2, foreground_share=1))
    if hangs:
        for case in source.cases:
            (tmp_path / f"{case}.pkl").unlink()
            os.mkfifo(tmp_path / f"{case}.pkl")
    (tmp_path / "source").write_bytes(pickle.dumps(source))
    process = python_command(SCRIPT, tmp_path / "source", place, pause_s).start()
    try:
        if isinstance(moment, str):
            while (line := process.stdout.readline().strip()) != moment:
                assert line, "the training ended"
            assert len(list_processes(process.pid)) >= 5
        else:
            time.sleep(moment)
        time.sleep(1.5 if hangs else 0)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    require_no_process(process.pid, LIMIT_S)
    process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["main", "thread"])
@pytest.mark.parametrize(
    "choices",
    [
        {"moment": "started"},
        {"moment": "0"},
        {"moment": "20"},
        {"moment": "3", "pause_s": 0.5},
        {"moment": "started", "hangs": True},
    ],
    ids=["starting", "first step", "busy", "idle", "reading"],
)
def test_no_worker_outlives_a_training_that_was_killed(tmp_path, place, choices):
    kill_and_look(tmp_path, place, **choices)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_no_worker_outlives_a_training_killed_at_any_time(tmp_path, seed):
    kill_and_look(tmp_path, "main", moment=random.Random(seed).uniform(0, 4))
