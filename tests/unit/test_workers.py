"""Worker processes: results, errors, deaths."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stu_pipeline.errors import DataError, MemoryLimitError
from stu_pipeline.workers import run_in_workers

REPOSITORY = Path(__file__).resolve().parents[2]


def double(number):
    return 2 * number


def refuse_odd(number):
    if number % 2:
        raise DataError(f"{number} is odd", hint="use even numbers", details=("a", "b"))
    return number


def die_on_two(number):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def exit_on_one(number):
    if number == 1:
        os._exit(7)
    return number


def fail(number):
    raise ZeroDivisionError(number)


def run_out(number):
    raise MemoryError


def report_modules(number):
    return "torch" in sys.modules, os.environ["OMP_NUM_THREADS"]


def sleep_long(number):
    time.sleep(60 if number else 0)


def die_or_sleep(name):
    if name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


# The first round answers with the workers' process ids, then both wait for an item that never comes.
PARENT_SCRIPT = """
import os, sys, time
from stu_pipeline.workers import run_in_workers

def answer(item):
    return os.getpid()

if __name__ == "__main__":
    outcomes = run_in_workers(answer, range(50), num_workers=2)
    seen = set()
    for outcome in outcomes:
        seen.add(outcome.result)
        time.sleep(0.05)
        if len(seen) == 2:
            break
    for pid in seen:
        print(pid, flush=True)
    time.sleep(60)
"""


def is_running(pid):
    """Tell whether a process is there and not only waiting to be collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_every_item_gets_its_outcome(num_workers):
    outcomes = list(run_in_workers(double, [5, 6, 7, 8], num_workers=num_workers))
    assert sorted((o.index, o.item, o.result) for o in outcomes) == [(0, 5, 10), (1, 6, 12), (2, 7, 14), (3, 8, 16)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_costs_one_item_and_keeps_its_parts(num_workers):
    outcomes = sorted(run_in_workers(refuse_odd, [0, 1, 2], num_workers=num_workers), key=lambda o: o.index)
    assert [o.result for o in outcomes] == [0, None, 2]
    error = outcomes[1].error
    assert isinstance(error, DataError) and (error.problem, error.hint, error.details) == (
        "1 is odd",
        "use even numbers",
        ("a", "b"),
    )


def test_a_killed_worker_is_named_with_its_item_and_the_rest_goes_on():
    outcomes = sorted(
        run_in_workers(die_on_two, range(6), num_workers=2, name_of=lambda n: f"case_{n}"), key=lambda o: o.index
    )
    assert [o.result for o in outcomes] == [0, 1, None, 3, 4, 5]
    assert isinstance(outcomes[2].error, MemoryLimitError)
    assert "'case_2' was killed by signal 9 (SIGKILL)" in outcomes[2].error.problem


def test_a_worker_that_exits_is_named_with_its_item():
    outcomes = {o.item: o for o in run_in_workers(exit_on_one, [0, 1], num_workers=1)}
    assert outcomes[0].result == 0 and "'1' ended with exit code 7" in outcomes[1].error.problem


def test_a_bug_is_raised_here(capfd):
    with pytest.raises(RuntimeError, match="a worker failed on '3'"):
        list(run_in_workers(fail, [3], num_workers=1))
    assert "ZeroDivisionError" in capfd.readouterr().err
    with pytest.raises(ZeroDivisionError):
        list(run_in_workers(fail, [3], num_workers=0))


def test_too_little_memory_costs_one_item():
    (outcome,) = run_in_workers(run_out, [0], num_workers=1)
    assert isinstance(outcome.error, MemoryLimitError)


def test_workers_have_one_thread_and_leave_our_environment_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    (outcome,) = run_in_workers(report_modules, [0], num_workers=1)
    assert outcome.result == (False, "1") and os.environ["OMP_NUM_THREADS"] == "5"


def test_a_killed_worker_is_named_within_ten_seconds_while_others_work():
    start = time.monotonic()
    outcomes = run_in_workers(die_or_sleep, ["dies", "sleeps"], num_workers=2)
    first = next(outcomes)
    elapsed_s = time.monotonic() - start
    outcomes.close()
    assert "'dies' was killed by signal 9" in first.error.problem and elapsed_s < 10


def test_no_worker_outlives_a_parent_that_was_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT_SCRIPT, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(tmp_path)])}
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(is_running(pid) for pid in workers)
    finally:
        parent.kill()
        parent.wait(timeout=10)
        parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker lives on without its parent"
        time.sleep(0.05)


def test_leaving_early_ends_the_workers():
    start = time.monotonic()
    outcomes = run_in_workers(sleep_long, [0, 1], num_workers=2)
    next(outcomes)
    outcomes.close()
    assert time.monotonic() - start < 10


def test_no_items_need_no_workers():
    assert list(run_in_workers(double, [], num_workers=4)) == []
