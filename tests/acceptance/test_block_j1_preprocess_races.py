"""Block J1, preprocessing: of several runs on one dataset exactly one works, the others say so within seconds."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.kills import REPOSITORY, hash_tree, python_command
from tests.planned import PLAN_NAME, write_planned_dataset

NUM_RACES, NUM_FAST = 10, 1
# Imports come first and all start together, so that they really meet.
SCRIPT = """
import sys, time
from stu_pipeline import PreprocessConfig, preprocess
from stu_pipeline.errors import LockedError
import stu_pipeline.datasets.cases, stu_pipeline.planfile, stu_pipeline.preprocessing.ground_truth

def linger(event):
    # The winner holds the lock for longer than a busy machine keeps the others from asking for it.
    if getattr(event, "step", "") == "copy ground truth" and event.done == 1:
        time.sleep(4)

print("ready", flush=True)
sys.stdin.readline()
began_s = time.monotonic()
try:
    preprocess(PreprocessConfig(dataset=sys.argv[1], plan_name=sys.argv[2], num_workers=1), listen=linger)
except LockedError as error:
    print(f"{time.monotonic() - began_s:.2f} {error}")
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    root = tmp_path_factory.mktemp("reference")
    dataset = write_planned_dataset(root, num_cases=3)
    planned = tmp_path_factory.mktemp("planned") / dataset.name
    shutil.copytree(dataset.preprocessed, planned)
    command = python_command(SCRIPT, dataset.raw, PLAN_NAME, nnUNet_preprocessed=str(dataset.preprocessed.parent))
    code, output = finish_all([start(command)])[0]
    assert code == 0, output
    return dataset.raw, planned, hash_tree(dataset.preprocessed)


def start(command):
    return subprocess.Popen(
        list(command.arguments), cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1", **command.variables},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish_all(racers):
    """Let all begin at once; return exit code and output of each."""
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    outputs = [racer.communicate(timeout=120)[0] for racer in racers]
    return [(racer.returncode, output) for racer, output in zip(racers, outputs, strict=True)]


@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=[] if n < NUM_FAST else pytest.mark.slow) for n in range(NUM_RACES)]
)
def test_one_of_three_wins_and_the_others_name_it(reference, tmp_path, number):
    raw, planned, tree = reference
    shutil.copytree(planned, tmp_path / planned.name)
    command = python_command(SCRIPT, raw, PLAN_NAME, nnUNet_preprocessed=str(tmp_path))
    racers = [start(command) for _ in range(2 + number % 3)]
    outcomes = finish_all(racers)
    assert sorted(code for code, _ in outcomes) == [0] + [7] * (len(racers) - 1), outcomes
    (winner,) = [racer.pid for racer, (code, _) in zip(racers, outcomes, strict=True) if code == 0]
    for code, output in outcomes:
        if code == 7:
            assert float(output.split()[0]) < 5
            assert f"preprocessed data of '{raw.name}' is in use by process {winner} on " in output
    assert hash_tree(tmp_path / planned.name) == tree
