"""The job scripts of docs/how-to/run-on-slurm.md, run with stand-ins for Slurm, torchrun and stu."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, list_blocks

SCRIPTS = [block for block in list_blocks(DOCS / "how-to" / "run-on-slurm.md", "bash") if block.startswith("#!")]
# Runs until it is told to stop, notes what it was told, and ends as the real one does.
TRAINING = """#!/bin/bash
echo "$0 $*" >> "$TRACE/started"
trap 'echo TERM >> "$TRACE/told"; exit {code}' TERM
for _ in $(seq 200); do sleep 0.05; done
exit 0
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A folder of stand-ins that comes first in PATH, and notes."""
    tools = tmp_path / "bin"
    tools.mkdir()
    scontrol = '#!/bin/bash\necho "$*" >> "$TRACE/scontrol"\n[ "$1" = show ] && printf "node1\\nnode2\\n"\nexit 0\n'
    for name, text in {
        "stu": TRAINING.format(code=143),
        "srun": TRAINING.format(code=1),
        "scontrol": scontrol,
    }.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TRACE", str(tmp_path))
    for name, value in {"SLURM_JOB_ID": "77", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def run_script(text, folder, numbers):
    script = folder / "train.sh"
    script.write_text(text)
    process = subprocess.Popen(["bash", str(script)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end_s = time.monotonic() + 10
    while not (folder / "started").exists():
        assert time.monotonic() < end_s
        time.sleep(0.02)
    time.sleep(0.1)  # the stand-in sets its trap after its note
    for number in numbers:
        process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert output == ""
    return process.returncode


def read_notes(folder, name):
    return (folder / name).read_text().splitlines() if (folder / name).exists() else []


def test_the_page_has_a_script_for_one_machine_and_one_for_several():
    assert ["torchrun" in script for script in SCRIPTS] == [False, True]
    assert all(text in script for script in SCRIPTS for text in ("--signal=B:USR1@", "--requeue", "append"))


@pytest.mark.parametrize(("index", "code"), [(0, 143), (1, 1)])
def test_when_its_time_is_over_a_job_saves_and_goes_back_into_the_queue(job, index, code):
    assert run_script(SCRIPTS[index], job, [signal.SIGUSR1]) == code
    assert read_notes(job, "told") == ["TERM"]
    assert read_notes(job, "scontrol")[-1] == "requeue 77"


@pytest.mark.parametrize(("index", "code"), [(0, 143), (1, 1)])
def test_a_job_that_is_taken_away_saves_and_ends(job, index, code):
    assert run_script(SCRIPTS[index], job, [signal.SIGTERM]) == code
    assert read_notes(job, "told") == ["TERM"]
    assert "requeue 77" not in read_notes(job, "scontrol")


@pytest.mark.parametrize("index", [0, 1])
def test_the_code_of_a_training_that_ends_by_itself_is_the_jobs(job, index):
    for name in ("stu", "srun"):
        (job / "bin" / name).write_text('#!/bin/bash\necho "$*" >> "$TRACE/started"\nsleep 0.3\nexit 3\n')
    assert run_script(SCRIPTS[index], job, []) == 3
    assert "requeue 77" not in read_notes(job, "scontrol")


def test_torchrun_meets_at_the_first_machine(job):
    run_script(SCRIPTS[1], job, [signal.SIGTERM])
    [started] = read_notes(job, "started")
    assert "--rdzv-endpoint node1:29500" in started and "--nnodes 2" in started
    assert started.endswith("-m stu_pipeline train Dataset701_Liver --scale B --fold 0")
    assert Path(started.split()[0]).name == "srun"
