"""Predictions that last a second: a tiny model, small images, and `stu predict` on them.

They come from a warm process that has imported everything and forks: the child is a session of its own that runs the
same command line, without the seconds of imports.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests import training_runs
from tests.kills import REPOSITORY, hash_tree
from tests.model_folders import write_model_folder
from tests.synthetic import make_image, make_label_map, write_volume
from tests.training_runs import Started, WarmStart

NUM_CASES = 4
SHAPE = (12, 22, 24)
# What a full disk must not take away: the output goes through a process that was started before the limit.
SPEAK = """
import os, subprocess
speaker = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
for number in (1, 2):
    os.dup2(speaker.stdin.fileno(), number)
speaker.stdin.close()
"""
_SERVER = training_runs._SERVER.replace(
    "import torch._dynamo, torch.utils.checkpoint",
    "import torch._dynamo, stu_pipeline.prediction.predict, stu_pipeline.prediction.run.session\n"
    "import nnunetv2.preprocessing.preprocessors.default_preprocessor",
)
# Different in every run by their nature.
_TIMES = ("seconds", "peak_memory_gib", "stamp", "forecast")


class WarmPredictor(WarmStart):
    """A process with everything imported, which forks predictions."""

    def __init__(self) -> None:
        assert "prediction.predict" in _SERVER
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(training_runs._KILL_AT_CALL / "sitecustomize.py")],
            cwd=REPOSITORY, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._read() == "ready\n"


@dataclass(frozen=True)
class TinyTask:
    """A model and images for it, and the process that predicts them."""

    root: Path
    model: Path
    warm: WarmStart

    @property
    def images(self) -> Path:
        return self.root / "images"


@contextmanager
def open_tiny_task(root: Path, num_cases: int = NUM_CASES, **model: Any) -> Iterator[TinyTask]:
    """Write a model with random weights and images, and start the process that predicts."""
    folder = write_model_folder(root / "results", **({"network": "PlainConvUNet", "mirror_axes": (2,)} | model))
    for index in range(num_cases):
        write_image(root / "images" / f"case_{index:03d}_0000.nii.gz", seed=index)
    warm = WarmPredictor()
    try:
        yield TinyTask(root, folder, warm)
    finally:
        warm.close()


def write_image(path: Path, seed: int, shape: tuple[int, ...] = SHAPE) -> Path:
    generator = np.random.default_rng(seed)
    image = make_image(make_label_map(shape, generator=generator), generator=generator)
    return write_volume(path, image, spacing_mm=(2.0, 1.0, 1.0))


@dataclass(frozen=True)
class Prediction:
    """`stu predict` of one folder of images.

    Args:
        task: model and images.
        output: the folder the masks go to.
        options: of the command line, beside the usual ones.
    """

    task: TinyTask
    output: Path
    options: dict[str, object] = field(default_factory=dict)
    said: Path | None = None
    """Where what it says goes; None: beside the output folder."""

    @property
    def arguments(self) -> list[str]:
        options = {"-i": self.task.images, "-o": self.output, "-m": self.task.model, "--device": "cpu", **self.options}
        return ["predict", *(str(word) for item in options.items() for word in item if word is not None)]

    def start(self, *, prelude: str = "", **variables: str) -> Started:
        """Start it. `prelude` is Python that runs first."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        said = (self.said or self.output.parent) / f"said-{time.monotonic_ns()}.txt"
        said.touch()
        pid = self.task.warm.fork(self.arguments, variables, said, prelude)
        return Started(pid, said, lambda: self.task.warm.poll(pid))

    def finish(self, expected: int = 0, **choices: Any) -> str:
        """Run to the end; return what it said."""
        started = self.start(**choices)
        code = started.wait()
        assert code == expected, f"exit code {code}: {started.output}"
        assert "Traceback" not in started.output, started.output
        return started.output

    # -- what it left ----------------------------------------------------------------------------

    def list_masks(self) -> dict[str, Path]:
        """Return the files under a final name of a mask, or of probabilities."""
        endings = (".nii.gz", ".npz")
        found = [path for path in self.output.glob("*") if path.name.endswith(endings)]
        return {path.name: path for path in found if not path.name.startswith(".")}

    def read_proofs(self) -> dict[str, set[str]]:
        """Return every SHA-256 that report and journal know of a mask, read independently of the code under test."""
        entries: list[dict[str, Any]] = []
        report, journal = self.output / "predictions.json", self.output / ".predictions.journal"
        if report.is_file():
            entries += [json.loads(report.read_text())["cases"]]
        if journal.is_file():
            entries += [json.loads(line) for line in journal.read_bytes().split(b"\n")[:-1]]
        proofs: dict[str, set[str]] = {}
        for cases in entries:
            for entry in cases.values():
                if "output_sha256" in entry:
                    proofs.setdefault(entry["output"], set()).add(entry["output_sha256"])
        return proofs

    def require_intact(self, reference: Reference) -> dict[str, tuple[int, int]]:
        """Require that every mask is whole and known; return inode and time of each."""
        tree, proofs = hash_tree(self.output) if self.output.exists() else {}, self.read_proofs()
        for name in self.list_masks():
            if name.endswith(".npz"):
                continue  # it counts with its mask, which comes after it
            assert tree[name] == reference.tree[name], f"'{name}' has its final name and is not the mask"
            assert tree[name] in proofs.get(name, ()), f"'{name}' has its final name and nobody knows it"
        for name in ("predictions.json", "dataset.json", "plans.json", "run.json"):
            if (self.output / name).exists():
                json.loads((self.output / name).read_text())
        return self.stamp_masks()

    def stamp_masks(self) -> dict[str, tuple[int, int]]:
        masks = {name: path for name, path in self.list_masks().items() if name.endswith(".nii.gz")}
        return {name: (path.stat().st_ino, path.stat().st_mtime_ns) for name, path in masks.items()}

    def require_end(self, reference: Reference, finished: dict[str, tuple[int, int]] | None = None) -> str:
        """Run the same command to its end: all is as if nothing had happened, and nothing was done twice."""
        said = self.finish()
        now = self.stamp_masks()
        assert (finished or {}).items() <= now.items(), "finished masks were made again"
        require_equal(read_outcome(self), reference)
        assert hash_tree(self.task.images) == reference.images
        return said


@dataclass(frozen=True)
class Reference:
    """The output folder of a prediction that nothing disturbed, without its times."""

    tree: dict[str, str]
    report: dict[str, Any]
    rows: list[list[str]]
    images: dict[str, str]


def read_outcome(prediction: Prediction) -> Reference:
    """Read what a finished prediction came to."""
    with_times = ("predictions.*", "run.json")
    tree = hash_tree(prediction.output, without=with_times)
    # A pickle of properties may hold paths and such; the npz of NumPy is a zip with the time in it.
    tree = {name: sha256 for name, sha256 in tree.items() if not name.endswith((".pkl", ".npz"))}
    assert all((prediction.output / name).is_file() for name in ("run.json", "predictions.md"))
    rows = list(csv.reader((prediction.output / "predictions.csv").read_text().splitlines()))
    seconds = rows[0].index("seconds")
    return Reference(
        tree=tree,
        report=_drop_times(json.loads((prediction.output / "predictions.json").read_text())),
        rows=[row[:seconds] + row[seconds + 1 :] for row in rows],
        images=hash_tree(prediction.task.images),
    )


def require_equal(found: Reference, expected: Reference) -> None:
    assert found.tree == expected.tree
    assert found.report == expected.report
    assert found.rows == expected.rows


def _drop_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: _drop_times(item) for name, item in value.items() if name not in _TIMES}
        # The files beside a mask may hold times of their own.
        return kept | ({"outputs": sorted(kept["outputs"])} if "outputs" in kept else {})
    return [_drop_times(item) for item in value] if isinstance(value, list) else value
