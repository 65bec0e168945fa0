"""Block I1: a loader's worker is killed, stopped or crashes, in six phases of its life.

It must be found within ten seconds of waiting for it, with its case and what happened; nothing may hang, and no
process may stay.
"""

from __future__ import annotations

import os
import pickle
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from stu_pipeline.errors import DataError, MemoryLimitError
from stu_pipeline.training.sampling.crop import CropRule
from stu_pipeline.training.sampling.loader import SampleLoader
from tests.kills import list_processes, python_command
from tests.unit.training.sampling.tiny_cases import make_source, write_cases

pytestmark = pytest.mark.slow

LIMIT_S = 10.0
PHASES = ("starting", "reading", "idle", "between steps", "while waited for", "beside others")
FATES = {
    signal.SIGKILL: (MemoryLimitError, r"was killed by signal 9 \(SIGKILL\)"),
    signal.SIGSEGV: (DataError, r"was killed by signal 11 \(SIGSEGV\)"),
    signal.SIGSTOP: (DataError, r"did not respond for \d+ s and was ended"),
}


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path, write_cases(tmp_path), rule=CropRule(batch=2, foreground_share=1))


def let_hang(source):
    """Let every worker stop at the properties of its first case, which nobody writes."""
    for case in source.cases:
        (source.folder / f"{case}.pkl").unlink()
        os.mkfifo(source.folder / f"{case}.pkl")


def wait_for(condition, limit_s=60):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_reading(pid):
    return "case_" in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")


def prepare(phase, source):
    """Open a loader and bring its first worker to a phase; return both, the step to take, and when to strike."""
    if phase in ("reading", "while waited for"):
        let_hang(source)
    num_workers = 2 if phase in ("beside others", "starting") else 1
    loader = SampleLoader(source, slots=(0, 1), num_workers=num_workers, phase="train", seed=5)
    victim = loader.worker_pids[0]
    if phase in ("reading", "while waited for"):
        wait_for(lambda: is_reading(victim))
    step = 0
    if phase in ("idle", "between steps", "beside others"):
        loader.take(0)
        step = 1
    if phase == "idle":
        time.sleep(2)  # everything is read ahead
    return loader, victim, step


@pytest.mark.parametrize("number", FATES, ids=lambda number: number.name)
@pytest.mark.parametrize("phase", PHASES)
def test_a_lost_worker_is_found_and_named(source, phase, number):
    kind, fate = FATES[number]
    loader, victim, step = prepare(phase, source)
    with loader:
        if phase == "while waited for":
            threading.Timer(3, os.kill, (victim, number)).start()
        else:
            os.kill(victim, number)
        if phase == "between steps":
            time.sleep(1)
        start = time.monotonic()
        with pytest.raises((DataError, MemoryLimitError)) as caught:
            for later in range(step, step + 10**6):
                loader.take(later)
        elapsed_s = time.monotonic() - start
    assert type(caught.value) is kind and elapsed_s < LIMIT_S + (3 if phase == "while waited for" else 0)
    assert re.search(fate, caught.value.problem)
    # A worker that had nothing to do had no case.
    assert re.search(
        r"'case_\d'" if number == signal.SIGSTOP or phase != "idle" else "'(case_.|no case)'", str(caught.value)
    )
    assert caught.value.where == source.folder and caught.value.hint
    assert victim not in list_processes(os.getsid(0))


SCRIPT = """
import pickle, sys
from pathlib import Path
from stu_pipeline.training.sampling.loader import SampleLoader

if __name__ == "__main__":
    source = pickle.loads(Path(sys.argv[1]).read_bytes())
    with SampleLoader(source, slots=(0, 1), num_workers=1, phase="train", seed=5) as loader:
        print(*loader.worker_pids, flush=True)
        loader.take(0)
        print("done", flush=True)
"""


@pytest.mark.parametrize("who", ["this process", "everything"])
def test_our_own_pause_does_not_blame_a_worker(tmp_path, who):
    """The training is stopped for longer than a worker may be silent, while it waits for one, and goes on."""
    source = make_source(tmp_path, write_cases(tmp_path, 1), rule=CropRule(batch=2, foreground_share=1))
    let_hang(source)
    (tmp_path / "source").write_bytes(pickle.dumps(source))
    process = python_command(SCRIPT, tmp_path / "source").start()
    send = os.kill if who == "this process" else os.killpg
    try:
        worker = int(process.stdout.readline())
        wait_for(lambda: is_reading(worker))
        time.sleep(2.5)
        send(process.pid, signal.SIGSTOP)
        time.sleep(9)
        send(process.pid, signal.SIGCONT)
        time.sleep(3)
        assert process.poll() is None
        (tmp_path / "case_0.pkl").write_bytes(pickle.dumps({"class_locations": {}}))
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, output) == (0, "done\n")
