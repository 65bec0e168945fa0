"""Blocks F1 and F5: kill -9 during preprocessing, at random moments and at chosen ones, alone and in chains.

After every kill the same command must finish the work, and the result must be the tree of a run that was
never killed, byte for byte. What was finished before the kill must not be done again.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.kills import REPOSITORY, Command, hash_tree, python_command
from tests.planned import IDENTIFIER, PLAN_NAME, write_planned_dataset

NUM_CASES = 8
NUM_WORKERS = 2
NUM_TIMES, NUM_CHAINS, NUM_COMMANDS = 30, 10, 10
NUM_FAST = 2
KILLS_PER_CHAIN = 5
CASE_ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")
KILL_AT_CALL = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "kill_at_call")])
SCRIPT = """
import sys
from stu_pipeline import PreprocessConfig, preprocess

preprocess(PreprocessConfig(dataset=sys.argv[1], plan_name=sys.argv[2], num_workers=int(sys.argv[3])))
"""


@dataclass(frozen=True)
class Reference:
    """A run that was not killed."""

    raw: Path
    raw_tree: dict[str, str]
    planned: Path
    """What preprocessing starts from: the preprocessed folder with the plan alone."""
    tree: dict[str, str]
    start_s: float
    """When the first file of a case appeared."""
    total_s: float


class Run:
    """One preprocessed folder that a killed command works on."""

    def __init__(self, reference: Reference, root: Path) -> None:
        self.reference = reference
        self.folder = root / reference.planned.name
        shutil.copytree(reference.planned, self.folder)
        self.data = self.folder / IDENTIFIER
        self.journal = self.folder / f"{IDENTIFIER}.manifest.jsonl"
        self.command = python_command(SCRIPT, reference.raw, PLAN_NAME, NUM_WORKERS, nnUNet_preprocessed=str(root))

    def count_journal_lines(self) -> int:
        try:
            return self.journal.read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    def list_names(self, folder: Path) -> set[str]:
        try:
            return {path.name for path in folder.iterdir()}
        except FileNotFoundError:
            return set()

    def list_recorded(self) -> set[str]:
        """Name the cases that manifest and journal call finished, read independently of the code under test."""
        recorded: set[str] = set()
        with contextlib.suppress(FileNotFoundError):
            recorded |= set(json.loads((self.folder / f"{IDENTIFIER}.manifest.json").read_text())["cases"])
        with contextlib.suppress(FileNotFoundError):
            for line in self.journal.read_text(errors="replace").split("\n")[:-1]:
                recorded.add(json.loads(line)["case"])
        return recorded

    def check_killed(self) -> dict[str, tuple[int, int]]:
        """Check what a kill left; return inode and time of every file of a finished case."""
        for name, sha256 in hash_tree(self.folder).items():
            is_final = not Path(name).name.startswith(".") and ".partial" not in name and not name.endswith(".jsonl")
            if is_final and not name.endswith((".manifest.json", "/")):
                assert self.reference.tree[name] == sha256, f"{name} is under its final name and not what it should be"
        recorded = self.list_recorded()
        complete = {name.removesuffix(".pkl") for name in self.list_names(self.data) if name.endswith(".pkl")}
        assert recorded <= complete
        assert len(complete - recorded) <= NUM_WORKERS, "more cases are lost than were in the hands of the workers"
        return self.stamp_files(recorded)

    def stamp_files(self, cases: set[str]) -> dict[str, tuple[int, int]]:
        files = [self.data / f"{case}{ending}" for case in cases for ending in CASE_ENDINGS]
        return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}

    def finish(self, finished: dict[str, tuple[int, int]]) -> None:
        """Run the same command to its end and compare with the reference."""
        code, output, _ = self.command.finish()
        assert code == 0, output
        again = self.stamp_files({name.removesuffix(".pkl") for name in finished if name.endswith(".pkl")})
        assert again == finished, "finished cases were done again"
        assert hash_tree(self.folder) == self.reference.tree
        assert hash_tree(self.reference.raw) == self.reference.raw_tree


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    root = tmp_path_factory.mktemp("reference")
    dataset = write_planned_dataset(root, num_cases=NUM_CASES, shape=(20, 40, 44), label_ids=(0, 3, 300))
    planned = tmp_path_factory.mktemp("planned") / dataset.name
    shutil.copytree(dataset.preprocessed, planned)
    raw_tree = hash_tree(dataset.raw)
    command = python_command(SCRIPT, dataset.raw, PLAN_NAME, NUM_WORKERS, nnUNet_preprocessed=str(root / "warm"))
    shutil.copytree(planned, root / "warm" / dataset.name)
    folder = root / "warm" / dataset.name
    scratch = folder / f".{IDENTIFIER}.partial"
    code, output, start_s, total_s = command.watch(scratch.is_dir)
    assert code == 0, output
    check_arrays(folder / IDENTIFIER)
    tree = hash_tree(folder)
    assert not [name for name in tree if Path(name).name.startswith(".") or name.endswith((".jsonl", ".lock"))]
    return Reference(dataset.raw, raw_tree, planned, tree, start_s, total_s)


def check_arrays(folder: Path) -> None:
    """Unpack every array of the reference: what the byte comparisons rest on."""
    import blosc2

    for index in range(NUM_CASES):
        image = blosc2.open(str(folder / f"case_{index:03d}.b2nd"), mode="r")[:]
        labels = blosc2.open(str(folder / f"case_{index:03d}_seg.b2nd"), mode="r")[:]
        assert image.shape == labels.shape and image.shape[0] == 1
        assert np.isfinite(image).all() and set(np.unique(labels)) == {0, 1, 2}


def mark_slow(values, num_fast=NUM_FAST):
    """The first ones belong to every run, the others to the slow tier. Tuples are several parameters."""
    marked = []
    for index, value in enumerate(values):
        parts = value if isinstance(value, tuple) else (value,)
        marked.append(pytest.param(*parts, marks=() if index < num_fast else pytest.mark.slow))
    return marked


@pytest.mark.parametrize("seed", mark_slow(range(NUM_TIMES)))
def test_a_kill_at_a_random_time_costs_nothing_that_was_finished(reference, tmp_path, seed):
    run = kill_at_random(reference, tmp_path, random.Random(seed))
    run.finish(run.check_killed())


def kill_at_random(reference, root, generator, run=None):
    """Kill a run while it works; one that ended before its time has come does not count and is tried again."""
    for attempt in range(20):
        given = run or Run(reference, root / str(attempt))
        if given.command.kill_after(generator.uniform(reference.start_s, reference.total_s)):
            return given
        assert hash_tree(given.folder) == reference.tree
        if run is not None:
            return run  # there was nothing left to do
    pytest.fail("every run ended before it could be killed")


def is_first_temporary(run, count):
    return len(run.list_names(run.folder / f".{IDENTIFIER}.partial")) > count


def is_temporary_growing(run, count):
    folder = run.folder / f".{IDENTIFIER}.partial"
    with contextlib.suppress(FileNotFoundError):
        return any((folder / name).stat().st_size > count for name in run.list_names(folder))
    return False


def is_journal_growing(run, count):
    return run.count_journal_lines() > count


def is_copying_ground_truth(run, count):
    return len(run.list_names(run.folder / "gt_segmentations")) > count


SEEN_POINTS = [
    *((is_journal_growing, count) for count in range(5)),
    *((is_copying_ground_truth, count) for count in (0, 2, 4)),
    *((is_first_temporary, count) for count in (0, 1, 3)),
    *((is_temporary_growing, count) for count in (0, 1000)),
]
"""Looked for every 2 ms."""
CALLED_POINTS = [
    "replace before case_003_seg.b2nd 1",  # one of three files has its name
    "replace before case_006.pkl 1",  # two of three
    "replace after case_002.pkl 1",  # all of them, and no line in the journal
    f"fsync before {IDENTIFIER}.manifest.jsonl 1",  # a line that is not flushed
    f"fsync after {IDENTIFIER}.manifest.jsonl 4",
    f"replace before {IDENTIFIER}.manifest.json 1",  # the empty manifest of the start
    f"replace after {IDENTIFIER}.manifest.json 1",
    f"replace before {IDENTIFIER}.manifest.json 2",  # the journal is folded into the manifest
    f"replace after {IDENTIFIER}.manifest.json 2",  # manifest and journal say the same
    f"unlink before {IDENTIFIER}.manifest.jsonl 2",
    f"unlink after {IDENTIFIER}.manifest.jsonl 2",
    f"fsync before {IDENTIFIER} 3",  # the folder after the renames
    "fsync before case_005.b2nd 1",
    "replace before case_004.nii.gz 1",  # ground truth
    "replace before gt_segmentations.manifest.json 1",
    "replace after gt_segmentations.manifest.json 1",
    "unlink before .preprocess.lock 1",
]
"""Too short to be seen: the process is killed at a system call of its own."""


@pytest.mark.parametrize(("is_reached", "count"), mark_slow(SEEN_POINTS, 1))
def test_a_kill_at_a_point_that_is_seen_costs_nothing_that_was_finished(reference, tmp_path, is_reached, count):
    # A busy machine can miss a moment; then the run ends, is right, and we try again.
    for attempt in range(10):
        run = Run(reference, tmp_path / str(attempt))
        if run.command.kill_when(lambda run=run: is_reached(run, count)):
            run.finish(run.check_killed())
            return
        assert hash_tree(run.folder) == reference.tree
    pytest.fail("the point was not seen in 10 runs")


@pytest.mark.parametrize("call", mark_slow(CALLED_POINTS, 3))
def test_a_kill_at_a_system_call_costs_nothing_that_was_finished(reference, tmp_path, call):
    run = Run(reference, tmp_path)
    killed = Command(run.command.arguments, {**run.command.variables, "KILL_AT_CALL": call, "PYTHONPATH": KILL_AT_CALL})
    code, output, _ = killed.finish()
    assert code == -signal.SIGKILL, f"it was not killed: {code} {output}"
    run.finish(run.check_killed())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(NUM_CHAINS))
def test_five_kills_in_a_row_cost_nothing_that_was_finished(reference, tmp_path, seed):
    generator = random.Random(1000 + seed)
    run = Run(reference, tmp_path)
    finished: dict[str, tuple[int, int]] = {}
    for _ in range(KILLS_PER_CHAIN):
        kill_at_random(reference, tmp_path, generator, run)
        now = run.check_killed()
        assert finished.items() <= now.items(), "a kill cost cases that were finished"
        finished = now
    run.finish(finished)


@pytest.fixture(scope="module")
def planned_reference(tmp_path_factory):
    """The whole command, planning included, that was not killed."""
    root = tmp_path_factory.mktemp("command")
    dataset = write_planned_dataset(root, num_cases=NUM_CASES, shape=(20, 40, 44))
    folder = root / "warm" / dataset.name
    code, output, total_s = make_plan_command(dataset.raw, root / "warm").finish()
    assert code == 0, output
    return dataset.raw, hash_tree(dataset.raw), hash_tree(folder, without=("*.log", "*.run.json")), total_s


def make_plan_command(raw: Path, preprocessed: Path) -> Command:
    arguments = [sys.executable, "-m", "stu_pipeline", "plan", str(raw), "--scale", "S", "--workers", str(NUM_WORKERS)]
    variables = {"nnUNet_preprocessed": str(preprocessed), "nnUNet_results": str(preprocessed / "results")}
    return Command(arguments, variables)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(NUM_COMMANDS))
def test_the_whole_command_can_be_killed_too(planned_reference, tmp_path, seed):
    raw, raw_tree, tree, total_s = planned_reference
    command = make_plan_command(raw, tmp_path)
    command.kill_after(total_s * (0.3 + 0.7 * (seed + random.Random(2000 + seed).random()) / NUM_COMMANDS))
    code, output, _ = command.finish()
    assert code == 0, output
    assert hash_tree(tmp_path / raw.name, without=("*.log", "*.run.json")) == tree
    assert hash_tree(raw) == raw_tree
