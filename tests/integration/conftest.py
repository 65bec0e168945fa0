"""One tiny dataset, one plan and one short training of ours, shared by every integration test. Read-only."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stu_pipeline.workspace import Workspace
from tests.integration.commands import DATASET_ID, PLAN, Tiny, make_workspace, narrow_plan, run_stu
from tests.synthetic import write_tiny_dataset


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    workspace = make_workspace(tmp_path_factory.mktemp("tiny"))
    raw = write_tiny_dataset(workspace.raw, DATASET_ID, num_cases=6, num_test=2, shape=(24, 28, 32))
    assert run_stu(workspace, "plan", DATASET_ID, "--scale", "S", "--gpu-memory", 8, "--workers", 0, "-q") == 0
    return Tiny(workspace=workspace, dataset=raw.name)


@pytest.fixture(scope="session")
def trained(tiny: Tiny) -> Path:
    """The model folder of fold 0, trained for two epochs of three steps."""
    size = ("--epochs", 2, "--iterations", 3, "--lr", 0.02, "--seed", 1)
    machine = ("--device", "cpu", "--workers", 0, "-q")
    assert run_stu(tiny.workspace, "train", DATASET_ID, "--scale", "S", "--fold", 0, *size, *machine) == 0
    return tiny.model_folder()


@pytest.fixture(scope="session")
def masks(tiny: Tiny, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `stu predict` makes of the two test cases with the trained fold."""
    output = tmp_path_factory.mktemp("masks") / "out"
    assert run_stu(tiny.workspace, "predict", "-i", tiny.raw / "imagesTs", "-o", output, "-m", trained,
                   "--device", "cpu", "--precision", "fp32", "-q") == 0  # fmt: skip
    return output


@pytest.fixture(scope="module")
def narrow(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The tiny dataset with a plan whose networks are narrow, both configurations preprocessed."""
    workspace = make_workspace(tmp_path_factory.mktemp("narrow"))
    shutil.copytree(tiny.workspace.raw, workspace.raw)
    configurations = ("--configuration", "2d", "--configuration", "3d_fullres")
    plan = ("plan", DATASET_ID, "--scale", "S", "--gpu-memory", 8, "--workers", 0, "-q")
    assert run_stu(workspace, *plan, *configurations) == 0
    narrow_plan(workspace.preprocessed / tiny.dataset / f"{PLAN}.json")
    return workspace
