"""Worker processes: results, errors, deaths."""

from __future__ import annotations

import os
import re
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


def sleep_for(seconds):
    time.sleep(seconds)
    return seconds


def hold_the_interpreter(seconds):
    """Compute in one call that lets no other Python thread run, for about this long; return how long it was."""
    start = time.monotonic()
    sum(range(10**7))
    rounds = seconds / (time.monotonic() - start)
    start = time.monotonic()
    sum(range(int(rounds * 10**7)))
    return time.monotonic() - start


def stop_or_work(item):
    folder, name = item
    if name == "stops":
        Path(folder, "pid").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
    return "done"


def sleep_long(number):
    time.sleep(60 if number else 0)


def die_or_sleep(name):
    if name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


# Every worker writes down its process id, then works for longer than any test waits.
PARENT_SCRIPT = """
import os, sys, threading, time
from pathlib import Path
from stu_pipeline.workers import run_in_workers

def work(item):
    Path(sys.argv[1], f"{os.getpid()}.pid").touch()
    if item != "idle":
        time.sleep(600)

def run():
    for outcome in run_in_workers(work, sys.argv[2].split("-"), num_workers=2):
        time.sleep(0.5)

if __name__ == "__main__":
    if sys.argv[3] == "thread":
        threading.Thread(target=run).start()
        time.sleep(600)
    run()
"""


def is_running(pid):
    """Tell whether a process is there and not only waiting to be collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until(condition, problem, limit_s=10):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, problem
        time.sleep(0.05)


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


@pytest.mark.parametrize(("work", "place"), [("busy-busy", "main"), ("busy-busy", "thread"), ("busy-idle", "main")])
def test_no_worker_outlives_a_parent_that_was_killed(tmp_path, work, place):
    script = tmp_path / "parent.py"
    script.write_text(PARENT_SCRIPT, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(tmp_path)])}
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path), work, place], env=environment)
    try:
        wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2, "the workers did not start")
        workers = [int(file.stem) for file in tmp_path.glob("*.pid")]
        assert all(is_running(pid) for pid in workers)
    finally:
        parent.kill()
        parent.wait(timeout=10)
    wait_until(lambda: not any(is_running(pid) for pid in workers), "a worker lives on without its parent")


def test_a_stopped_worker_is_named_and_ended_and_the_rest_goes_on(tmp_path):
    items = [(str(tmp_path), name) for name in ("stops", "works", "works too")]
    start = time.monotonic()
    outcomes = {
        outcome.item[1]: outcome
        for outcome in run_in_workers(stop_or_work, items, num_workers=2, name_of=lambda item: item[1], stall_s=4)
    }
    assert time.monotonic() - start < 15
    assert outcomes["works"].result == outcomes["works too"].result == "done"
    error = outcomes["stops"].error
    assert isinstance(error, DataError)
    assert re.search(r"'stops' did not respond for \d s and was ended", error.problem)
    wait_until(lambda: not is_running(int((tmp_path / "pid").read_text())), "the stopped worker is still there")


@pytest.mark.slow
def test_a_worker_that_waits_for_long_is_not_taken_for_stopped():
    (outcome,) = run_in_workers(sleep_for, [7], num_workers=1, stall_s=4)
    assert outcome.result == 7


@pytest.mark.slow
def test_a_worker_that_works_without_a_word_is_not_taken_for_stopped():
    (outcome,) = run_in_workers(hold_the_interpreter, [12], num_workers=1, stall_s=4)
    assert outcome.error is None and outcome.result > 8


def test_leaving_early_ends_the_workers():
    start = time.monotonic()
    outcomes = run_in_workers(sleep_long, [0, 1], num_workers=2)
    next(outcomes)
    outcomes.close()
    assert time.monotonic() - start < 10


def test_no_items_need_no_workers():
    assert list(run_in_workers(double, [], num_workers=4)) == []
