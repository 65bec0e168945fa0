"""Run `stu` and nnU-Net's commands on a workspace, and compare what they wrote."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from stu_pipeline.cli import run
from stu_pipeline.workspace import Workspace

DATASET_ID = 901
PLAN = "stuSPlans"
REPOSITORY = Path(__file__).parents[2]
# Locks and logs are no results; a failed run may leave them.
_NO_RESULTS = ("*.lock", ".lock", "*.log", "*/.inspections/*")


@dataclass(frozen=True)
class Tiny:
    """A workspace with a dataset of six cases (and two test cases) that is planned and preprocessed."""

    workspace: Workspace
    dataset: str

    @property
    def raw(self) -> Path:
        return self.workspace.raw / self.dataset

    @property
    def preprocessed(self) -> Path:
        return self.workspace.preprocessed / self.dataset

    def model_folder(self, plan: str = PLAN, configuration: str = "3d_fullres", *, results: Path | None = None) -> Path:
        return (results or self.workspace.results) / self.dataset / f"nnUNetTrainer__{plan}__{configuration}"


def make_workspace(root: Path, *, results: Path | None = None) -> Workspace:
    """Return the three roots below `root`, the results elsewhere when asked for."""
    return Workspace(
        raw=root / "nnUNet_raw",
        preprocessed=root / "nnUNet_preprocessed",
        results=results or root / "nnUNet_results",
    )


def name_variables(workspace: Workspace) -> dict[str, str]:
    """Return nnU-Net's three paths as environment variables."""
    return {
        "nnUNet_raw": str(workspace.raw),
        "nnUNet_preprocessed": str(workspace.preprocessed),
        "nnUNet_results": str(workspace.results),
    }


@contextlib.contextmanager
def use_variables(workspace: Workspace, **more: str) -> Iterator[None]:
    """Set nnU-Net's three paths in this process inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (name_variables(workspace) | more).items():
            patch.setenv(name, value)
        yield


def run_stu(workspace: Workspace, *arguments: object) -> int:
    """Run one `stu` command in this process and return its exit code."""
    with use_variables(workspace):
        return run([str(argument) for argument in arguments])


def start_stu(workspace: Workspace, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start one `stu` command in a process group of its own."""
    command = [sys.executable, "-m", "stu_pipeline", *[str(argument) for argument in arguments]]
    return subprocess.Popen(
        command,
        env=_environment(workspace),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    )


def run_stock(workspace: Workspace, command: str, *arguments: object) -> str:
    """Run one of nnU-Net's own commands, as installed, and return what it printed."""
    script = Path(sys.executable).with_name(command)
    done = subprocess.run(
        [str(script), *[str(argument) for argument in arguments]],
        env=_environment(workspace),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def measure_agreement(first: Path, second: Path) -> float:
    """Return the share of equal voxels over all masks of two folders with the same masks.

    Fails when the folders hold different masks, or only one label.
    """
    names = sorted(path.name for path in first.glob("*.nii.gz"))
    assert names and names == sorted(path.name for path in second.glob("*.nii.gz"))
    equal = total = 0
    labels: set[int] = set()
    for name in names:
        a, b = (sitk.ReadImage(str(folder / name)) for folder in (first, second))
        assert a.GetSize() == b.GetSize() and a.GetSpacing() == pytest.approx(b.GetSpacing())
        voxels, others = sitk.GetArrayFromImage(a), sitk.GetArrayFromImage(b)
        equal += int((voxels == others).sum())
        total += voxels.size
        labels |= set(np.unique(voxels).tolist())
    assert len(labels) > 1, "masks of one label prove nothing"
    print(f"{equal} of {total} voxels equal: {equal / total:.5%}")
    return equal / total


def read_labels(folder: Path) -> dict[str, set[int]]:
    """Return the labels in every mask of a folder."""
    return {
        path.name: set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))).tolist())
        for path in sorted(folder.glob("*.nii.gz"))
    }


def hash_tree(folder: Path) -> dict[str, str]:
    """Return the hash of every result below a folder by its path; a missing folder has none."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(path.match(pattern) for pattern in _NO_RESULTS)
    }


def narrow_plan(path: Path, width: int = 4) -> None:
    """Edit a plan by hand, so that its networks train in no time: the same layout, fewer features."""
    plan = json.loads(path.read_text())
    for configuration in plan["configurations"].values():
        if "architecture" in configuration:
            features = [width * factor for factor in (1, 2, 4, 4, 4, 4)]
            configuration["architecture"]["arch_kwargs"]["features_per_stage"] = features
    path.write_text(json.dumps(plan))


def _environment(workspace: Workspace) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet")}
    return kept | name_variables(workspace) | {"PYTHONPATH": str(REPOSITORY)}
