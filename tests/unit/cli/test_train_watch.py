"""`stu train --watch`, from the command line."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stu_pipeline.cli import run
from stu_pipeline.nnunet.events import StepsDone
from stu_pipeline.storage import hold_lock, write_json
from stu_pipeline.training.story.progress import RunStatus, RunStory
from stu_pipeline.workspace import RunPaths, fold_folder
from tests.planned import write_planned_dataset
from tests.training_events import make_epoch

REPOSITORY = Path(__file__).resolve().parents[3]
COMMAND = ["train", "901", "--scale", "S", "--fold", "0", "--watch"]


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """Make a planned dataset and return the files of its fold 0, where nobody trained yet."""
    dataset = write_planned_dataset(tmp_path)
    monkeypatch.setenv("STU_WORKSPACE", str(tmp_path))
    return RunPaths(fold_folder(dataset.model_folder("stuSPlans", "3d_fullres"), 0))


def write_finished_run(paths):
    paths.folder.mkdir(parents=True)
    rows = [json.dumps(dataclasses.asdict(make_epoch(epoch, num_epochs=3))) + "\n" for epoch in range(3)]
    paths.metrics.write_text("".join(rows), encoding="utf-8")
    paths.checkpoint("final").write_bytes(b"")
    paths.validation_summary.parent.mkdir()
    write_json(paths.validation_summary, {"foreground_mean": {"Dice": 0.875}})


def test_nobody_trains_there(paths, capsys):
    assert run(COMMAND) == 4
    err = capsys.readouterr().err
    assert "error: nobody has trained fold 0 of 'nnUNetTrainer__stuSPlans__3d_fullres'" in err
    assert "hint: run the same command without --watch" in err


def test_a_finished_fold_is_shown_and_exits_0(paths, capfd):
    write_finished_run(paths)
    assert run(COMMAND) == 0
    out, err = capfd.readouterr()
    assert [line[:9] for line in err.splitlines()] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert out == f"fold 0 is finished, mean Dice 0.875, in {paths.folder}\n"


def test_the_result_is_a_document_with_json(paths, capfd):
    write_finished_run(paths)
    assert run([*COMMAND, "--json", "--quiet"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {"fold": 0, "run_folder": str(paths.folder), "num_epochs": 3, "mean_dice": 0.875}
    assert err == ""


def test_a_dead_run_is_told_and_is_no_success(paths, capsys):
    paths.folder.mkdir(parents=True)
    status = RunStatus(state="training", pid=4711, host="node7", written_s=time.time() - 1000)
    write_json(paths.status, dataclasses.asdict(status))
    assert run(COMMAND) == 4
    assert "the training of process 4711 on node7 is gone without a word" in capsys.readouterr().err


def test_ctrl_c_leaves_the_follower_and_not_the_training(paths):
    command = [sys.executable, "-c", _FOLLOW, *COMMAND]
    with hold_lock(paths.lock, what="fold 0"), RunStory(paths, first_epoch=0) as story:
        story.hear(
            StepsDone(epoch=0, num_epochs=3, step=7, num_steps=250, loss=0.5, step_s=0.2, data_wait=0.02, eta_s=900.0)
        )
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        with process:
            line = process.stderr.readline()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        assert line == "epoch 1/3  step 7/250  loss 0.5000, 0.2 s/step, 2% waiting, 15 min 00 s left\n"
        assert process.returncode == 130 and "Traceback" not in err
        assert paths.lock.is_file()


# A shell starts what runs in its background with Ctrl-C ignored.
_FOLLOW = """
import signal, sys
from stu_pipeline.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


def test_following_imports_no_torch(paths):
    write_finished_run(paths)
    code = f"import sys; from stu_pipeline.cli import run; run({COMMAND!r}); sys.exit('torch' in sys.modules)"
    outcome = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, check=False)
    assert outcome.returncode == 0
