"""Trainings that last a second or two: a tiny dataset with a narrow network, and `stu train` on it.

Most runs come from a warm process that has imported everything and forks: the child is a session of its own that
runs the same command line, without the seconds of imports. `is_cold` starts a new Python instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from stu_pipeline import PreprocessConfig, preprocess
from stu_pipeline.storage import hash_file
from stu_pipeline.workspace import RunPaths, use_workspace
from tests.kills import POLL_S, REPOSITORY, require_no_process
from tests.planned import CONFIGURATION, IDENTIFIER, PLAN_NAME, write_planned_dataset

NUM_EPOCHS, NUM_STEPS, NUM_CASES = 2, 4, 5
FEATURES = (4, 4, 8, 8, 8, 8)
STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 1, 1), (1, 1, 1), (1, 1, 1))
LIMIT_S = 180.0
KINDS = ("final", "best", "ema")
"""Checkpoints that a finished training has."""
# No results, or different in every run by their nature.
TIMES = ("epoch_start_timestamps", "epoch_end_timestamps")
_RESULTS = (
    "epoch", "num_epochs", "train_loss", "val_loss", "dice", "mean_dice", "ema_dice", "learning_rate", "is_best",
    "num_skipped_steps", "ema_weights_dice",
)  # fmt: skip
_KILL_AT_CALL = REPOSITORY / "tests" / "kill_at_call"
_SERVER = """
import json, os, runpy, signal, sys, traceback

import stu_pipeline.cli.app
import stu_pipeline.nnunet.session, stu_pipeline.nnunet.validation
import stu_pipeline.planfile, stu_pipeline.training.train
import stu_pipeline.training.run.result, stu_pipeline.training.run.fold
import torch._dynamo, torch.utils.checkpoint
from stu_pipeline.cli import main

def begin(request):
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets background jobs ignore it
    for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, request["output"], os.O_WRONLY)):
        os.dup2(os.open(name, flags), number)
    os.dup2(1, 2)
    os.environ.update(request["variables"])
    if request["prelude"]:
        exec(request["prelude"], {})
    if "KILL_AT_CALL" in request["variables"]:
        runpy.run_path(sys.argv[1])
    sys.argv = ["stu", *request["arguments"]]
    main()

def end(code):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

def answer(request):
    if "wait" in request:
        pid, status = os.waitpid(request["wait"], os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None
    pid = os.fork()
    if pid == 0:
        try:
            begin(request)
        except SystemExit as stop:
            import atexit
            atexit._run_exitfuncs()
            end(stop.code or 0)
        except BaseException:
            traceback.print_exc()
            end(1)
    return pid

print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
"""


_ACT_AT = """
import fnmatch, os, signal, torch
from pathlib import Path

def act():
    {action}

def is_named(arguments):
    last = arguments[-1]
    path = Path(f"/proc/self/fd/{{last}}").readlink() if isinstance(last, int) else Path(last)
    return fnmatch.fnmatch(path.name, "{which}")

def is_without_gradient(arguments):
    return not torch.is_grad_enabled()

def is_any(arguments):
    return True

original = {function}
chosen = {choice}
calls = 0

def call(*arguments, **options):
    global calls
    is_chosen = chosen(arguments)
    calls += is_chosen
    if is_chosen and calls in {numbers}:
        act()
    return original(*arguments, **options)

{function} = call
"""


def act_at(point: str, action: str) -> str:
    """Return a prelude that runs a line of Python before a chosen call of a function.

    Args:
        point: `FUNCTION NUMBERS [WHICH]`. FUNCTION is `os.replace`, `torch.optim.SGD.step`, ...; NUMBERS are those of
            its calls, `3` or `range(2,9)`, counted over the calls that WHICH names: a file's name, or `no_grad`.
        action: the line; `os`, `signal` and `torch` are known.
    """
    function, numbers, *which = point.split()
    choice = "is_any" if not which else "is_without_gradient" if which == ["no_grad"] else "is_named"
    numbers = numbers if numbers.startswith("range") else f"[{numbers}]"
    return _ACT_AT.format(function=function, numbers=numbers, choice=choice, which="".join(which), action=action)


class WarmStart:
    """A process with everything imported, which forks trainings."""

    def __init__(self) -> None:
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(_KILL_AT_CALL / "sitecustomize.py")],
            cwd=REPOSITORY, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._read() == "ready\n"

    def fork(self, arguments: list[str], variables: dict[str, str], output: Path, prelude: str) -> int:
        return int(
            self._ask({"arguments": arguments, "variables": variables, "output": str(output), "prelude": prelude})
        )

    def poll(self, pid: int) -> int | None:
        """Return the exit code of a child that has ended; it can be asked for once."""
        code: int | None = self._ask({"wait": pid})
        return code

    def close(self) -> None:
        with self._process as process:
            process.kill()

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@dataclass
class Started:
    """A training at work, in a session of its own."""

    pid: int
    output_file: Path
    _poll: Callable[[], int | None]
    code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            self.code = self._poll()
        return self.code

    def send(self, number: int, *, to_group: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if to_group else os.kill)(self.pid, number)

    def wait_until(self, is_reached: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
        """Look every 2 ms; return whether the process was still at work when the condition held."""
        deadline = time.monotonic() + limit_s
        while self.poll() is None and not is_reached():
            assert time.monotonic() < deadline, f"it neither ended nor got to the point: {self.output}"
            time.sleep(POLL_S)
        return self.poll() is None

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """Wait for the end and return the exit code; whoever does not end is killed, and fails the test."""
        try:
            self.wait_until(lambda: False, limit_s)
        finally:
            if self.poll() is None:
                self.send(signal.SIGKILL, to_group=True)
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        """Kill the whole session, and see it gone."""
        self.send(signal.SIGKILL, to_group=True)
        deadline = time.monotonic() + 10
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        require_no_process(self.pid)

    @property
    def output(self) -> str:
        return self.output_file.read_text(encoding="utf-8", errors="replace")

    def require_gone(self) -> None:
        """Require that no process of its session is left after ten seconds."""
        require_no_process(self.pid)


@dataclass(frozen=True)
class TinyDataset:
    """A dataset that is planned and preprocessed, and the process that trains on it."""

    root: Path
    warm: WarmStart

    @property
    def raw(self) -> Path:
        return self.root / "nnUNet_raw" / "Dataset901_Tiny"

    @property
    def preprocessed(self) -> Path:
        return self.root / "nnUNet_preprocessed" / "Dataset901_Tiny"

    @property
    def data(self) -> Path:
        return self.preprocessed / IDENTIFIER

    def copy(self, root: Path) -> TinyDataset:
        """Copy it, for a test that changes it."""
        shutil.copytree(self.raw, root / "nnUNet_raw" / self.raw.name)
        shutil.copytree(self.preprocessed, root / "nnUNet_preprocessed" / self.preprocessed.name)
        return TinyDataset(root, self.warm)

    def edit_plan(self, edit: Callable[[dict[str, Any]], object]) -> None:
        """Change the plan by hand."""
        file = self.preprocessed / f"{PLAN_NAME}.json"
        plan = json.loads(file.read_text())
        edit(plan)
        file.write_text(json.dumps(plan))


@dataclass(frozen=True)
class Training:
    """`stu train` of one fold into a folder of its own.

    Args:
        dataset: what it trains on.
        results: its `nnUNet_results`.
        options: of the command line, instead of or beside the usual ones.
    """

    dataset: TinyDataset
    results: Path
    options: dict[str, object] = field(default_factory=dict)

    @property
    def fold(self) -> int:
        return int(str(self.options.get("--fold", 0)))

    @property
    def model_folder(self) -> Path:
        return self.results / self.dataset.raw.name / f"nnUNetTrainer__{PLAN_NAME}__{CONFIGURATION}"

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.model_folder / f"fold_{self.fold}")

    @property
    def arguments(self) -> list[str]:
        options: dict[str, object] = {
            "--fold": 0, "--epochs": NUM_EPOCHS, "--iterations": NUM_STEPS, "--seed": 1, "--workers": 0,
            "--device": "cpu", "--precision": "fp32", "--checkpoint-minutes": 0, "--track": "none", **self.options,
        }  # fmt: skip
        words = [str(word) for item in options.items() for word in item if word is not None]
        return ["train", str(self.dataset.raw), "--deterministic", *words]

    @property
    def variables(self) -> dict[str, str]:
        root = self.dataset.root
        return {
            "nnUNet_raw": str(root / "nnUNet_raw"),
            "nnUNet_preprocessed": str(root / "nnUNet_preprocessed"),
            "nnUNet_results": str(self.results),
        }

    def start(self, *, is_cold: bool = False, prelude: str = "", **variables: str) -> Started:
        """Start it. `prelude` is Python that runs first, in a warm start only."""
        self.results.mkdir(parents=True, exist_ok=True)
        output = self.results / f"output-{time.monotonic_ns()}.txt"
        output.touch()
        variables = {**self.variables, **variables}
        if is_cold:
            assert not prelude
            return self._start_cold(output, variables)
        pid = self.dataset.warm.fork(self.arguments, variables, output, prelude)
        return Started(pid, output, lambda: self.dataset.warm.poll(pid))

    def _start_cold(self, output: Path, variables: dict[str, str]) -> Started:
        path = [str(REPOSITORY), *([str(_KILL_AT_CALL)] if "KILL_AT_CALL" in variables else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path), **variables}
        with output.open("w") as stream, _hearing_interrupts():
            process = subprocess.Popen(
                [sys.executable, "-m", "stu_pipeline", *self.arguments], cwd=REPOSITORY, env=environment,
                stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        return Started(process.pid, output, process.poll)

    def finish(self, expected: int = 0, **choices: Any) -> str:
        """Run to the end; return what it said."""
        started = self.start(**choices)
        code = started.wait()
        assert code == expected, f"exit code {code}: {started.output}"
        assert "Traceback" not in started.output, started.output
        return started.output

    # -- what it left ----------------------------------------------------------------------------

    def list_checkpoints(self) -> list[Path]:
        return sorted(self.paths.folder.glob("checkpoint_*.pth"))

    def list_leftovers(self) -> list[str]:
        """List temporary files, half-written folders and locks."""
        marks = (".stu-tmp-", ".partial", ".lock")
        return [str(path) for path in self.results.rglob("*") if any(mark in path.name for mark in marks)]

    def read_checkpoint(self, kind: str = "final") -> dict[str, Any]:
        return read_intact(self.paths.checkpoint(kind))

    def read_record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.paths.record.read_text())
        return record

    def read_log(self) -> str:
        return self.paths.log.read_text(encoding="utf-8")

    def require_intact(self) -> tuple[int, int] | None:
        """Require every file that has its final name to be complete; return epoch and step of the farthest checkpoint.

        None when there is none, or only a `best`, which has no momentum.
        """
        reached = []
        for path in self.list_checkpoints():
            content = read_intact(path)
            if content["optimizer_state"]["state"]:
                reached.append((content["current_epoch"], content["stu"]["position"]["step"]))
        for path in self.results.rglob("*.json"):
            if not path.name.startswith("."):
                _require_json(path)
        return max(reached, default=None)

    def require_end(self, expected: Outcome, **choices: Any) -> str:
        """Run the same command to its end: the result is that of a training that nothing disturbed."""
        output = self.finish(**choices)
        require_equal(read_outcome(self), expected)
        self.require_clean()
        return output

    def require_clean(self) -> None:
        """Require a finished fold without anything that belongs to a run at work."""
        assert not self.list_leftovers()
        assert {path.name for path in self.list_checkpoints()} <= {f"checkpoint_{kind}.pth" for kind in KINDS}


@contextlib.contextmanager
def _hearing_interrupts() -> Iterator[None]:
    # A shell lets what it starts in the background ignore Ctrl-C, the tests included; children inherit that.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _require_json(path: Path) -> None:
    try:
        json.loads(path.read_text())
    except ValueError as error:
        raise AssertionError(f"{path.name} is damaged: {error}") from error


def read_intact(path: Path) -> dict[str, Any]:
    """Read a checkpoint independently of the code under test; fail where a byte of it is wrong."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None, f"{path.name} is damaged"
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    for name, weight in content["network_weights"].items():
        assert torch.isfinite(weight).all(), f"{path.name} holds {name} that is not finite"
    return content


@dataclass(frozen=True)
class Outcome:
    """What a training came to, without its times."""

    weights: dict[str, torch.Tensor]
    momentum: list[torch.Tensor]
    log: dict[str, Any]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]


def read_outcome(training: Training) -> Outcome:
    checkpoint = training.read_checkpoint()
    log = {key: value for key, value in checkpoint["logging"].items() if key not in TIMES}
    state = checkpoint["optimizer_state"]["state"]
    lines = (training.paths.folder / "metrics.jsonl").read_text().splitlines()
    metrics = [{key: value for key, value in json.loads(line).items() if key in _RESULTS} for line in lines]
    return Outcome(
        weights=checkpoint["network_weights"],
        momentum=[state[index]["momentum_buffer"] for index in sorted(state)],
        log=log,
        metrics=metrics,
        summary=_strip_paths(json.loads(training.paths.validation_summary.read_text())),
    )


def require_equal(found: Outcome, expected: Outcome) -> None:
    """Require two trainings to be the same to the last bit."""
    assert found.weights.keys() == expected.weights.keys()
    for name, weight in expected.weights.items():
        assert torch.equal(found.weights[name], weight), f"weights of {name} differ"
    assert len(found.momentum) == len(expected.momentum) > 0
    for index, (mine, theirs) in enumerate(zip(found.momentum, expected.momentum, strict=True)):
        assert torch.equal(mine, theirs), f"momentum {index} differs"
    assert repr(found.log) == repr(expected.log)  # NaN is equal to itself here
    assert repr(found.metrics) == repr(expected.metrics)
    assert found.summary == expected.summary


def _strip_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strip_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strip_paths(item) for item in value]
    return Path(value).name if isinstance(value, str) else repr(value)


@contextlib.contextmanager
def open_tiny_dataset(root: Path) -> Iterator[TinyDataset]:
    """Write the dataset, preprocess it, and keep a warm process until the block ends."""
    dataset = write_planned_dataset(root, num_cases=NUM_CASES)
    warm = WarmStart()
    try:
        tiny = TinyDataset(root, warm)
        tiny.edit_plan(_narrow)
        with use_workspace(root):
            preprocess(PreprocessConfig(dataset=str(dataset.raw), plan_name=PLAN_NAME, num_workers=0))
        shutil.copy(dataset.dataset_json, dataset.preprocessed_dataset_json)
        dataset.fingerprint.write_text("{}")  # a training only copies it
        dataset.splits.write_text(json.dumps(_split()))
        yield tiny
    finally:
        warm.close()


def _narrow(plan: dict[str, Any]) -> None:
    architecture = plan["configurations"][CONFIGURATION]["architecture"]
    architecture["arch_kwargs"] |= {"features_per_stage": list(FEATURES), "strides": [list(step) for step in STRIDES]}


def _split() -> list[dict[str, list[str]]]:
    known = [f"case_{index:03d}" for index in range(NUM_CASES)]
    parts = [known[0:2], known[2:4], known[4:]]
    return [{"train": [case for case in known if case not in part], "val": part} for part in parts]


def hash_files(folder: Path, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder by relative path."""
    return {
        str(path.relative_to(folder)): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(path.match(pattern) for pattern in without)
    }
