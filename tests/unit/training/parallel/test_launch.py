"""Processes of one training: results, errors, crashes, signals, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from stu_pipeline.errors import DataError, MemoryLimitError, StoppedError, UsageError
from stu_pipeline.log import Notice, Progress, ignore_events
from stu_pipeline.training.parallel.launch import choose_device_type, require_gpus, run_ranks
from stu_pipeline.training.parallel.ranks import LostRankError
from stu_pipeline.workspace import use_workspace
from tests.unit.training.parallel import rank_jobs

REPOSITORY = Path(__file__).resolve().parents[4]


def run_two(function, config=None, listen=ignore_events, **options):
    return run_ranks(function, config, num_ranks=2, device_type="cpu", listen=listen, **options)


def pids_in(folder):
    return [int(path.name.partition("-")[2]) for path in Path(folder).glob("rank*-*")]


def is_running(pid):
    """Tell whether a process works; one that ended and was not waited for does not."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return False


def count_starts(folder, rank):
    return len(list(Path(folder).glob(f"rank{rank}-*")))


def test_ranks_know_each_other_and_the_first_one_answers(tmp_path):
    events = []
    with use_workspace(tmp_path):
        found = run_two(rank_jobs.report, {"scale": "S"}, events.append)
    assert found["config"] == {"scale": "S"}
    assert (found["RANK"], found["LOCAL_RANK"], found["WORLD_SIZE"]) == ("0", "0", "2")
    assert found["MASTER_ADDR"] == "127.0.0.1"
    assert found["nnUNet_results"] == str(tmp_path / "nnUNet_results")
    assert events == [Progress(step="report", done=1, total=1, item="0")]


def test_cores_are_shared_out_unless_threads_are_chosen(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert run_two(rank_jobs.report)["OMP_NUM_THREADS"] == "7"
    monkeypatch.delenv("OMP_NUM_THREADS")
    cores = len(os.sched_getaffinity(0))
    assert 1 <= int(run_two(rank_jobs.report)["OMP_NUM_THREADS"]) <= max(1, cores // 2)


def test_the_error_of_any_rank_ends_all_and_is_raised_as_it_is(tmp_path):
    start_s = time.monotonic()
    with pytest.raises(DataError, match="case 'a' is damaged") as caught:
        run_two(rank_jobs.refuse_on_rank_one, tmp_path)
    assert (caught.value.hint, caught.value.details, caught.value.where) == ("mend it", ("one",), Path("somewhere"))
    assert count_starts(tmp_path, 1) == 1, "an error of the user is no reason to start again"
    assert not any(is_running(pid) for pid in pids_in(tmp_path))
    assert time.monotonic() - start_s < 15


def test_a_killed_rank_starts_all_again_and_the_user_is_told(tmp_path):
    events = []
    assert run_two(rank_jobs.die_once_on_rank_one, tmp_path, events.append) == "done"
    notices = [event for event in events if isinstance(event, Notice)]
    assert len(notices) == 1 and notices[0].is_warning
    assert "rank 1 of 2 was killed by signal 9 (SIGKILL)" in notices[0].text
    assert "starting again from the newest checkpoint (1 of 3)" in notices[0].text
    assert count_starts(tmp_path, 0) == count_starts(tmp_path, 1) == 2


@pytest.mark.integration
def test_a_rank_that_always_crashes_ends_the_training(tmp_path):
    with pytest.raises(LostRankError, match=r"rank 1 of 2 was killed by signal 6 \(SIGABRT\)") as caught:
        run_two(rank_jobs.die_always_on_rank_one, tmp_path, where=tmp_path)
    assert count_starts(tmp_path, 1) == 4
    assert "the last words" in caught.value.details and caught.value.where == tmp_path
    assert not any(is_running(pid) for pid in pids_in(tmp_path))


def test_a_bug_is_shown_with_its_traceback_and_not_repeated(tmp_path):
    with pytest.raises(RuntimeError, match="ZeroDivisionError: division by zero"):
        run_two(rank_jobs.divide_by_zero, tmp_path)
    assert count_starts(tmp_path, 0) == 1


@pytest.mark.integration
def test_the_reason_is_told_even_when_it_comes_after_its_symptom(tmp_path):
    with pytest.raises(RuntimeError, match="the real reason"):
        run_two(rank_jobs.fail_late_on_rank_one, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_rank_once_and_its_error_comes_back(tmp_path, number):
    events = []

    def listen(event):
        events.append(event.text)
        if event.text == "running":
            wait_until(lambda: count_starts(tmp_path, 1) == 1)
            # As Slurm and a terminal do: the same signal more than once in a moment.
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(StoppedError) as caught:
        run_two(rank_jobs.train_until_stopped, tmp_path, listen)
    assert caught.value.exit_code == 128 + number
    assert events == ["running", "saved 1"]
    assert not any(is_running(pid) for pid in pids_in(tmp_path))
    assert signal.getsignal(number) is before


def test_sigusr1_is_passed_on_and_the_training_goes_on(tmp_path):
    events = []

    def listen(event):
        events.append(event.text)
        if event.text == "running":
            wait_until(lambda: count_starts(tmp_path, 1) == 1)
            os.kill(os.getpid(), signal.SIGUSR1)
        if event.text == "saved on request":
            wait_until((tmp_path / "saved-by-rank1").exists)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError):
        run_two(rank_jobs.train_until_stopped, tmp_path, listen)
    assert events == ["running", "saved on request", "saved 1"]


def test_ranks_that_do_not_stop_in_time_are_ended(tmp_path):
    def listen(event):
        os.kill(os.getpid(), signal.SIGTERM)

    start_s = time.monotonic()
    with pytest.raises(StoppedError, match="before the state could be saved") as caught:
        run_two(rank_jobs.ignore_signals, tmp_path, listen, stop_grace_s=1.0)
    assert caught.value.exit_code == 143 and time.monotonic() - start_s < 15
    assert not any(is_running(pid) for pid in pids_in(tmp_path))


@pytest.mark.integration
def test_ranks_save_and_end_when_their_parent_is_killed(tmp_path):
    script = (
        "from stu_pipeline.training.parallel.launch import run_ranks\n"
        "from tests.unit.training.parallel import rank_jobs\n"
        f"run_ranks(rank_jobs.train_until_stopped, {str(tmp_path)!r}, num_ranks=2, device_type='cpu', listen=print)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    wait_until(lambda: count_starts(tmp_path, 0) == count_starts(tmp_path, 1) == 1, limit_s=20)
    assert all(is_running(pid) for pid in pids_in(tmp_path))
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(is_running(pid) for pid in pids_in(tmp_path)), limit_s=10)


def test_a_rank_that_the_system_killed_points_to_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("stu_pipeline.training.parallel.launch.MAX_RESTARTS", 0)
    with pytest.raises(MemoryLimitError, match="rank 1 of 2 was killed by signal 9") as caught:
        run_two(rank_jobs.die_once_on_rank_one, tmp_path)
    assert "out of memory" in caught.value.hint


def test_more_gpus_than_there_are_is_refused():
    import torch

    num_gpus = torch.cuda.device_count()
    with pytest.raises(UsageError, match=f"{num_gpus + 2} GPUs were asked for, {num_gpus} are visible"):
        run_ranks(rank_jobs.report, None, num_ranks=num_gpus + 2, device_type="cuda", listen=ignore_events)
    with pytest.raises(UsageError, match="'mps'"):
        require_gpus(2, "mps")
    require_gpus(1, "mps")
    require_gpus(64, "cpu")


def test_several_processes_train_on_the_gpus_where_there_are_any():
    import torch

    assert choose_device_type("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert [choose_device_type(name) for name in ("cpu", "cuda", "mps")] == ["cpu", "cuda", "mps"]


def test_starting_ranks_inside_torchrun_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UsageError, match="torchrun"):
        run_two(rank_jobs.report)


def test_what_starts_processes_imports_no_torch():
    imports = ", ".join(f"stu_pipeline.training.parallel.{name}" for name in ("crew", "rank_process", "shares"))
    code = f"import {imports}, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


def wait_until(is_true, limit_s=10.0):
    end_s = time.monotonic() + limit_s
    while not is_true():
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.05)
