"""Several processes train one fold, or several folds at a time: the same result, and nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from stu_pipeline.workspace import Workspace
from tests.integration.commands import (
    DATASET_ID,
    PLAN,
    Tiny,
    make_workspace,
    name_variables,
    narrow_plan,
    run_stu,
    start_stu,
)

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
_MACHINE = ("--device", "cpu", "--precision", "fp32", "--workers", 0, "--mirror", "none")
_TRAIN = ("train", DATASET_ID, "--scale", "S", "--augment", "none", "--seed", 3, *_MACHINE)
_SHORT = ("--epochs", 2, "--iterations", 3)
_LONG = ("--epochs", 2, "--iterations", 60, "--checkpoint-minutes", 0.005)
_WAIT_S = 240


@pytest.fixture(scope="module")
def parallel(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The tiny dataset with a plan whose network is narrow."""
    workspace = make_workspace(tmp_path_factory.mktemp("parallel"))
    workspace.raw.parent.mkdir(parents=True, exist_ok=True)
    workspace.raw.symlink_to(tiny.workspace.raw, target_is_directory=True)
    assert run_stu(workspace, "plan", DATASET_ID, "--scale", "S", "--gpu-memory", 8, "--workers", 0, "-q") == 0
    narrow_plan(workspace.preprocessed / tiny.dataset / f"{PLAN}.json")
    return workspace


@pytest.fixture(scope="module")
def alone(parallel: Workspace, tiny: Tiny) -> Path:
    """Fold 0, trained by one process."""
    return _train(parallel, "alone", tiny)


def test_two_processes_train_what_one_does(parallel: Workspace, tiny: Tiny, alone: Path):
    together = _train(parallel, "together", tiny, "--gpus", 2)
    _require_same_training(together, alone)
    record = json.loads((together / "run.json").read_text())
    assert record["ranks"]["world_size"] == 2
    assert record["batch_rule"]["sentence"] == "batch 2 as planned, shared by 2 ranks"


def test_torchrun_trains_what_one_process_does(parallel: Workspace, tiny: Tiny, alone: Path):
    results = parallel.results.parent / "torchrun"
    workspace = make_workspace(parallel.raw.parent, results=results)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "stu_pipeline"]
        + [str(word) for word in (*_TRAIN, *_SHORT, "--fold", 0)],
        env={**os.environ, **name_variables(workspace), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=_WAIT_S,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert done.stdout.count("Dice of the final validation") == 1, "one process speaks"
    _require_same_training(tiny.model_folder(results=results) / "fold_0", alone)


def test_a_killed_rank_costs_no_more_than_a_checkpoint(parallel: Workspace, tiny: Tiny):
    with _running(parallel, "killed", "--gpus", 2) as (process, workspace):
        fold = tiny.model_folder(results=workspace.results) / "fold_0"
        _wait_for((fold / "checkpoint_latest.pth").exists, process)
        ranks = _list_children(process.pid)
        assert len(ranks) == 2
        os.kill(max(ranks), signal.SIGKILL)
        output, _ = process.communicate(timeout=_WAIT_S)
    assert process.returncode == 0, output
    assert "was killed by signal 9 (SIGKILL); starting again from the newest checkpoint (1 of 3)" in output
    assert json.loads((fold / "run.json").read_text())["continued_from"] is not None
    rows = [json.loads(line) for line in (fold / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1]


def test_a_signal_saves_the_state_of_all_and_the_same_command_continues(parallel: Workspace, tiny: Tiny):
    with _running(parallel, "stopped", "--gpus", 2) as (process, workspace):
        fold = tiny.model_folder(results=workspace.results) / "fold_0"
        _wait_for((fold / "checkpoint_latest.pth").exists, process)
        ranks = _list_children(process.pid)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=_WAIT_S)
    assert process.returncode == 143, output
    assert "state saved" in output and "Traceback" not in output
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    assert run_stu(workspace, *_TRAIN, *_LONG, "--fold", 0, "--gpus", 2, "-q") == 0
    assert torch.load(fold / "checkpoint_final.pth", weights_only=True)["current_epoch"] == 2


def test_folds_train_at_the_same_time(parallel: Workspace, tiny: Tiny, capfd):
    workspace = make_workspace(parallel.raw.parent, results=parallel.results.parent / "folds")
    assert run_stu(workspace, *_TRAIN, *_SHORT, "--fold", "0,1", "--gpus", 2) == 0
    shown = capfd.readouterr()
    for fold in (0, 1):
        assert (tiny.model_folder(results=workspace.results) / f"fold_{fold}" / "validation/summary.json").is_file()
        assert f"fold {fold}" in shown.err + shown.out


def _train(parallel: Workspace, name: str, tiny: Tiny, *arguments: object) -> Path:
    """Train fold 0 into results of its own and return its folder."""
    workspace = make_workspace(parallel.raw.parent, results=parallel.results.parent / name)
    assert run_stu(workspace, *_TRAIN, *_SHORT, "--fold", 0, *arguments) == 0
    return tiny.model_folder(results=workspace.results) / "fold_0"


def _require_same_training(found: Path, expected: Path) -> None:
    """Compare losses, weights and momentum: sums in another order, and nothing else."""
    checkpoints = [torch.load(fold / "checkpoint_final.pth", weights_only=True) for fold in (found, expected)]
    losses = [checkpoint["logging"]["train_losses"] for checkpoint in checkpoints]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    np.testing.assert_allclose(*(checkpoint["logging"]["val_losses"] for checkpoint in checkpoints), rtol=1e-4)
    weights = [checkpoint["network_weights"] for checkpoint in checkpoints]
    assert set(weights[0]) == set(weights[1])
    for name, value in weights[1].items():
        torch.testing.assert_close(weights[0][name], value, rtol=1e-3, atol=1e-5, msg=name)


class _running:  # noqa: N801 - reads as a block
    """A long training in a process of its own, ended with the block."""

    def __init__(self, parallel: Workspace, name: str, *arguments: object) -> None:
        self._workspace = make_workspace(parallel.raw.parent, results=parallel.results.parent / name)
        self._process = start_stu(self._workspace, *_TRAIN, *_LONG, "--fold", 0, *arguments)

    def __enter__(self) -> tuple[subprocess.Popen[str], Workspace]:
        return self._process, self._workspace

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def _list_children(pid: int) -> list[int]:
    return [int(child) for child in _read_children(pid)]


def _read_children(pid: int) -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            yield path.parent.name


def _wait_for(is_true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end_s = time.monotonic() + _WAIT_S
    while not is_true():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.1)
