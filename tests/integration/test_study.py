"""`stu study` as a user runs it: cells in processes of their own, a failing one beside good ones, a killed study."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from stu_pipeline.workspace import Workspace
from tests.integration.commands import hash_tree, make_workspace, run_stu, start_stu
from tests.study_files import describe_dataset, write_manifest
from tests.synthetic import write_tiny_dataset

pytestmark = pytest.mark.integration

_ARMS = '[[arms]]\nname = "scratch"\nkind = "scratch"\n[[arms]]\nname = "nnunet"\nkind = "stock"\n'
_LIMIT_S = 300.0


def _write_study(root, name, *raw, epochs=1, arms=_ARMS):
    curve = "[learning_curve]\nnum_training_cases = [2]\nnum_validation_cases = 2\n"
    budget = f'[budget]\nepochs = {epochs}\niterations = 1\ndevice = "cpu"\nworkers = 0\n'
    head = f'name = "{name}"\nscales = ["S"]\n'
    return write_manifest(root / f"{name}.toml", head, curve, budget, *map(describe_dataset, raw), arms)


def _read_record(manifest, cell):
    path = manifest.with_suffix(".study") / "cells" / f"{cell}.json"
    return json.loads(path.read_text()) if path.is_file() else None


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return make_workspace(tmp_path / "user")


def test_a_study_runs_fails_in_part_and_continues(workspace: Workspace, tmp_path, capsys):
    good = write_tiny_dataset(workspace.raw, 901, num_cases=4, shape=(16, 20, 24))
    bad = write_tiny_dataset(workspace.raw, 902, name="Bad", num_cases=4, shape=(16, 20, 24), seed=1)
    damaged = bad / "imagesTr" / "case_001_0000.nii.gz"
    intact = damaged.read_bytes()
    damaged.write_bytes(intact[:-40])
    manifest = _write_study(tmp_path, "mine", good, bad)
    before = hash_tree(tmp_path / "user")

    assert run_stu(workspace, "study", manifest) == 10
    said = capsys.readouterr()
    assert "2 of 4 cells failed: Dataset902_Bad.scratch.S.n2.s0" in said.err
    done, failed = (_read_record(manifest, f"{name}.scratch.S.n2.s0") for name in ("Dataset901_Tiny", "Dataset902_Bad"))
    assert done["state"] == "done" and 0 <= done["mean_dice"] <= 1
    assert failed["state"] == "failed" and failed["exit_code"] == 3 and "case_001" in failed["error"]
    assert hash_tree(tmp_path / "user") == before  # nothing of the user's is touched
    stock = json.loads((manifest.with_suffix(".study") / done["run_folder"] / "run.json").read_text())
    assert stock["settings"]["seed"] == 0

    damaged.write_bytes(intact)
    stamps = {path: path.stat().st_mtime_ns for path in manifest.with_suffix(".study").glob("cells/Dataset901*")}
    assert run_stu(workspace, "study", manifest, "--jobs", 2) == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    out = capsys.readouterr().out
    assert "4 cells: 4 done" in out and "nnunet against scratch S" not in out
    assert "nnunet against scratch with 2 training cases" in out
    results = manifest.with_suffix(".study") / "results"
    rows = [json.loads(line) for line in (results / "scores.jsonl").read_text().splitlines()]
    assert len(rows) == 4 * 2 * 2 and {row["scale"] for row in rows} == {"S", None}
    command = next(line for line in out.splitlines() if line.startswith("one pair: stu "))
    assert run_stu(workspace, *command.removeprefix("one pair: stu ").split()) == 0
    assert "scratch" in capsys.readouterr().out


def test_a_killed_study_leaves_no_process_and_goes_on_from_the_checkpoint(workspace: Workspace, tmp_path):
    raw = write_tiny_dataset(workspace.raw, 901, num_cases=4, shape=(16, 20, 24))
    only_scratch = '[[arms]]\nname = "scratch"\nkind = "scratch"\ntrain = { checkpoint_minutes = 0.0 }\n'
    manifest = _write_study(tmp_path, "long", raw, epochs=6, arms=only_scratch)
    started = start_stu(workspace, "study", manifest)
    runs = manifest.with_suffix(".study") / "nnUNet_results"
    try:
        _wait(lambda: any(runs.rglob("checkpoint_latest.pth")), started)
    finally:
        os.kill(started.pid, signal.SIGKILL)
        started.communicate(timeout=30)
    lock = manifest.with_suffix(".study") / "cells" / ".Dataset901_Tiny.scratch.S.n2.s0.lock"
    _wait(lambda: not lock.exists())  # the cell's process has saved and gone
    assert _read_record(manifest, "Dataset901_Tiny.scratch.S.n2.s0")["state"] == "started"
    assert run_stu(workspace, "study", manifest, "-q") == 0
    record = _read_record(manifest, "Dataset901_Tiny.scratch.S.n2.s0")
    run = manifest.with_suffix(".study") / record["run_folder"]
    assert record["state"] == "done" and json.loads((run / "run.json").read_text())["continued_from"] is not None
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 6


def _wait(is_reached, process=None):
    deadline = time.monotonic() + _LIMIT_S
    while not is_reached():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
