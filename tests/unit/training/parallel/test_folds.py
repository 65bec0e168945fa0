"""Several folds at the same time, a process and a GPU each."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from stu_pipeline.errors import DataError, MemoryLimitError, StoppedError, UsageError
from stu_pipeline.log import ignore_events
from stu_pipeline.training.parallel.folds import list_seats, run_folds
from tests.unit.training.parallel import rank_jobs


def run_three(folder, whats=("", "", ""), *, num_at_once=2, listen_to=lambda name: ignore_events):
    names = [f"fold {index}" for index in range(3)]
    configs = [(folder, name, what) for name, what in zip(names, whats, strict=True)]
    return run_folds(
        rank_jobs.train_fold,
        configs,
        names=names,
        num_at_once=num_at_once,
        device_type="cpu",
        listen_to=listen_to,
    )


def ended_in(folder):
    return sorted(path.stem for path in Path(folder).glob("*.ended"))


@pytest.mark.parametrize("num_at_once", [1, 2, 5])
def test_results_come_in_order_and_no_more_run_than_wanted(tmp_path, num_at_once):
    heard = []
    results = run_three(
        tmp_path, num_at_once=num_at_once, listen_to=lambda name: lambda event: heard.append((name, event.step))
    )
    assert [name for name, _ in results] == ["fold 0", "fold 1", "fold 2"]
    assert max(running for _, running in results) <= num_at_once
    assert sorted(heard) == [(f"fold {index}", f"fold {index}") for index in range(3)]


def test_a_failed_fold_lets_the_others_finish(tmp_path):
    with pytest.raises(DataError, match="'fold 1' is damaged") as caught:
        run_three(tmp_path, ("", "refuse", ""))
    assert ended_in(tmp_path) == ["fold 0", "fold 1", "fold 2"]
    assert caught.value.details == ("fold 1 failed: 'fold 1' is damaged",)


def test_the_worst_of_several_failures_decides(tmp_path):
    with pytest.raises(MemoryLimitError, match=r"fold 2 was killed by signal 9") as caught:
        run_three(tmp_path, ("refuse", "", "die"))
    assert len(caught.value.details) == 2 and caught.value.exit_code == 6


def test_after_a_signal_no_fold_begins(tmp_path):
    names = ["fold 0", "fold 1"]

    def listen_to(name):
        def listen(event):
            if event.text == "running":
                os.kill(os.getpid(), signal.SIGTERM)

        return listen

    folders = [tmp_path / name for name in names]
    for folder in folders:
        folder.mkdir()
    with pytest.raises(StoppedError) as caught:
        run_folds(
            rank_jobs.train_until_stopped,
            folders,
            names=names,
            num_at_once=1,
            device_type="cpu",
            listen_to=listen_to,
        )
    assert caught.value.exit_code == 143
    assert list(folders[0].iterdir()) != [] and list(folders[1].iterdir()) == []


def test_each_seat_sees_one_of_the_gpus_that_we_may_use(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5,7")
    assert list_seats(2, "cuda") == [{"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert list_seats(2, "cuda") == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    assert list_seats(2, "cpu") == [{}, {}]


def test_more_at_once_than_gpus_is_refused():
    import torch

    wanted = torch.cuda.device_count() + 2
    with pytest.raises(UsageError, match="GPUs were asked for"):
        run_folds(
            rank_jobs.train_fold,
            [],
            names=[],
            num_at_once=wanted,
            device_type="cuda",
            listen_to=lambda name: ignore_events,
        )
