"""Whatever is wrong: one clear line, a hint, the exit code, and nothing lost or half written."""

from __future__ import annotations

import contextlib
import gzip
import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stu_pipeline import TrainConfig, train
from stu_pipeline.errors import StorageError
from stu_pipeline.log import Progress
from stu_pipeline.storage import hold_lock
from stu_pipeline.workspace import RunPaths, Workspace
from tests.integration.commands import DATASET_ID, Tiny, hash_tree, make_workspace, run_stu, use_variables
from tests.model_folders import write_model_folder
from tests.synthetic import make_label_map, write_tiny_dataset, write_volume

pytestmark = pytest.mark.integration

_SHAPE = (8, 16, 16)
_PLAN = ("plan", 903, "--scale", "S", "--gpu-memory", 8, "--workers", 0)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "workspace")


@pytest.fixture
def raw(workspace: Workspace) -> Path:
    """A valid dataset of three cases with two channels."""
    return write_tiny_dataset(workspace.raw, 903, name="Bad", num_cases=3, num_channels=2, shape=_SHAPE)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model_folder(tmp_path / "models", network="PlainConvUNet")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images that `model` can predict."""
    tiny = write_tiny_dataset(tmp_path / "images", 904, num_cases=3, shape=_SHAPE)
    return tiny / "imagesTr"


# -- datasets ------------------------------------------------------------------------------------


def test_a_missing_dataset_names_the_known_ones(workspace, raw, capfd):
    error = _refuse(capfd, workspace, 3, "plan", "Dataset777_Nowhere")
    assert "dataset 'Dataset777_Nowhere' not found" in error and "Dataset903_Bad" in error


def test_a_missing_channel_names_the_file(workspace, raw, capfd):
    (raw / "imagesTr" / "case_001_0001.nii.gz").unlink()
    error = _refuse(capfd, workspace, 3, *_PLAN)
    assert "case 'case_001' has 1 of 2 channels" in error and "case_001_0001.nii.gz" in error


def test_a_shape_mismatch_names_case_and_sizes(workspace, raw, capfd):
    write_volume(raw / "labelsTr" / "case_002.nii.gz", make_label_map((8, 16, 15)), spacing_mm=(2, 1, 1))
    error = _refuse(capfd, workspace, 3, *_PLAN)
    assert "case_002" in error and "15" in error and "16" in error


def test_an_unknown_label_is_counted(workspace, raw, capfd):
    labels = make_label_map(_SHAPE)
    labels[0, 0, :3] = 7
    write_volume(raw / "labelsTr" / "case_000.nii.gz", labels, spacing_mm=(2, 1, 1))
    error = _refuse(capfd, workspace, 3, *_PLAN)
    assert "'case_000.nii.gz' has 3 voxels of label 7" in error


def test_a_wrong_file_ending_names_both(workspace, raw, capfd):
    description = json.loads((raw / "dataset.json").read_text()) | {"file_ending": ".nrrd"}
    (raw / "dataset.json").write_text(json.dumps(description))
    error = _refuse(capfd, workspace, 3, *_PLAN)
    assert "ends in .nii.gz but dataset.json says .nrrd" in error


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_an_unreadable_image_is_named(workspace, raw, capfd, damage):
    path = raw / "imagesTr" / "case_001_0000.nii.gz"
    _damage(path, damage)
    error = _refuse(capfd, workspace, 3, *_PLAN)
    assert "case_001_0000.nii.gz" in error


def test_several_problems_are_listed_together(workspace, raw, capfd):
    _damage(raw / "imagesTr" / "case_001_0000.nii.gz", "cut")
    _damage(raw / "labelsTr" / "case_002.nii.gz", "cut")
    error = _refuse(capfd, workspace, 3, *_PLAN)
    assert "case_001_0000.nii.gz" in error and "case_002.nii.gz" in error


def test_a_dataset_without_cases_is_refused(workspace, raw, capfd):
    for folder in ("imagesTr", "labelsTr"):
        for path in (raw / folder).iterdir():
            path.unlink()
    assert "no training cases found" in _refuse(capfd, workspace, 3, *_PLAN)


# -- plans and scales ----------------------------------------------------------------------------


def test_an_unknown_scale_lists_the_scales(workspace, raw, capfd):
    error = _refuse(capfd, workspace, 2, "plan", 903, "--scale", "XXL")
    assert "XXL" in error and all(letter in error for letter in "SBLH")


@pytest.mark.parametrize("scale", ["auto", "S", "H"])
def test_too_little_gpu_memory_says_what_is_needed(workspace, raw, capfd, scale):
    error = _refuse(capfd, workspace, 6, "plan", 903, "--scale", scale, "--gpu-memory", 0.5, "--workers", 0)
    assert "GiB" in error


def test_training_without_a_plan_names_the_command(workspace, raw, capfd):
    error = _refuse(capfd, workspace, 4, "train", 903, "--scale", "S")
    assert "no plan for scale S" in error and "hint: stu plan Dataset903_Bad --scale S" in error


# -- training ------------------------------------------------------------------------------------


def test_training_without_preprocessed_data_names_the_command(workspace, raw, capfd):
    assert run_stu(workspace, *_PLAN, "--no-preprocess", "-q") == 0
    error = _refuse(capfd, workspace, 3, "train", 903, "--device", "cpu")
    assert "not preprocessed" in error and "hint: stu plan Dataset903_Bad" in error


def test_a_fold_that_does_not_exist_is_refused(tiny: Tiny, capfd):
    error = _refuse(capfd, tiny.workspace, 2, "train", DATASET_ID, "--scale", "S", "--fold", 7)
    assert "fold 7 does not exist" in error and "folds 0 to 4" in error


def test_a_fold_that_another_run_trains_is_locked(tiny: Tiny, capfd):
    fold = RunPaths(tiny.model_folder() / "fold_4")
    with hold_lock(fold.lock, what="this test"):
        error = _refuse(capfd, tiny.workspace, 7, "train", DATASET_ID, "--scale", "S", "--fold", 4, "--device", "cpu")
    assert "is in use by process" in error


def test_an_output_folder_that_another_run_fills_is_locked(workspace, model, images, tmp_path, capfd):
    with hold_lock(tmp_path / "masks" / ".lock", what="this test"):
        _refuse(capfd, workspace, 7, "predict", "-i", images, "-o", tmp_path / "masks", "-m", model)


# -- prediction ----------------------------------------------------------------------------------


def test_predicting_without_a_checkpoint_names_the_command(tiny: Tiny, tmp_path, capfd):
    output = tmp_path / "masks"
    choice = ("-d", DATASET_ID, "--plan", "stuBPlans")
    error = _refuse(capfd, tiny.workspace, 4, "predict", "-i", tiny.raw / "imagesTs", "-o", output, *choice)
    assert "no trained model" in error and f"stu train {tiny.dataset}" in error
    assert not output.exists()


def test_a_model_folder_without_a_checkpoint_names_the_command(workspace, model, images, tmp_path, capfd):
    (model / "fold_0" / "checkpoint_final.pth").unlink()
    error = _refuse(capfd, workspace, 4, "predict", "-i", images, "-o", tmp_path / "masks", "-m", model)
    assert "no checkpoint yet" in error and "hint: stu train" in error


def test_an_empty_input_folder_is_an_error(workspace, model, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    error = _refuse(capfd, workspace, 3, "predict", "-i", tmp_path / "empty", "-o", tmp_path / "masks", "-m", model)
    assert "no cases found" in error
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_one_damaged_case_of_three_costs_one_case(workspace, model, images, tmp_path, capfd, damage):
    _damage(images / "case_001_0000.nii.gz", damage)
    masks = tmp_path / "masks"
    arguments = ("predict", "-i", images, "-o", masks, "-m", model, "--device", "cpu", "--tta", "none")
    assert run_stu(workspace, *arguments) == 10
    error = _read_error(capfd)
    assert "case_001" in error
    assert sorted(path.name for path in masks.glob("*.nii.gz")) == ["case_000.nii.gz", "case_002.nii.gz"]
    cases = json.loads((masks / "predictions.json").read_text())["cases"]
    assert {name: case["status"] for name, case in cases.items()} == {
        "case_000": "done",
        "case_001": "failed",
        "case_002": "done",
    }


def test_weights_that_are_not_finite_never_become_a_mask(workspace, model, images, tmp_path, capfd):
    path = model / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=True)
    next(iter(checkpoint["network_weights"].values())).view(-1)[0] = float("nan")
    torch.save(checkpoint, path)
    masks = tmp_path / "masks"
    error = _refuse(capfd, workspace, 8, "predict", "-i", images, "-o", masks, "-m", model)
    assert "finite" in error or "NaN" in error
    assert not list(masks.glob("*.nii.gz"))


# -- a full disk ---------------------------------------------------------------------------------


def test_a_full_disk_stops_planning_and_the_same_command_goes_on(workspace, raw, capfd):
    with _limit_file_size(4 * 1024):
        assert run_stu(workspace, *_PLAN) == 5
    error = _read_error(capfd)
    assert "no space left" in error
    _require_no_leftovers(workspace.preprocessed)
    assert run_stu(workspace, *_PLAN) == 0
    data = workspace.preprocessed / "Dataset903_Bad" / "nnUNetPlans_3d_fullres"
    assert sorted(path.name for path in data.glob("*.pkl")) == [f"case_{index:03d}.pkl" for index in range(3)]


def test_a_full_disk_stops_training_and_keeps_the_last_checkpoint(tiny: Tiny, trained: Path, tmp_path, capfd):
    workspace = make_workspace(tiny.workspace.raw.parent, results=tmp_path / "results")
    model = tiny.model_folder(results=workspace.results)
    shutil.copytree(trained, model, ignore=shutil.ignore_patterns("validation"))
    before = hash_tree(model / "fold_0")
    command = ("train", DATASET_ID, "--scale", "S", "--fold", 0, "--epochs", 3, "--iterations", 1, "--device", "cpu")
    with _limit_file_size(8 * 1024 * 1024):
        assert run_stu(workspace, *command, "--workers", 0) == 5
    assert "no space left" in _read_error(capfd)
    after = hash_tree(model / "fold_0")
    for name in ("checkpoint_final.pth", "checkpoint_best.pth"):
        assert after[name] == before[name]
    _require_no_leftovers(model)


def test_memory_that_runs_out_in_a_training_is_explained(tiny: Tiny, tmp_path, capfd, monkeypatch):
    def run_out(*unused, **also_unused):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr("stu_pipeline.training.loop.step.run_network", run_out)
    workspace = make_workspace(tiny.workspace.raw.parent, results=tmp_path / "results")
    command = ("train", DATASET_ID, "--scale", "S", "--fold", 0, "--epochs", 1, "--iterations", 1, "--device", "cpu")
    assert run_stu(workspace, *command, "--workers", 0) == 6
    error = _read_error(capfd)
    assert "memory ran out" in error and "--gpu-memory" in error


def test_a_gpu_that_is_gone_is_named_and_nothing_is_overwritten(
    tiny: Tiny, trained: Path, tmp_path, capfd, monkeypatch
):
    def lose(*unused, **also_unused):
        raise RuntimeError("CUDA error 702, the launch timed out and was terminated\nCompile with more words")

    monkeypatch.setattr("stu_pipeline.training.loop.step.run_network", lose)
    workspace = make_workspace(tiny.workspace.raw.parent, results=tmp_path / "results")
    model = tiny.model_folder(results=workspace.results)
    shutil.copytree(trained, model, ignore=shutil.ignore_patterns("validation"))
    before = (model / "fold_0" / "checkpoint_final.pth").read_bytes()
    command = ("train", DATASET_ID, "--scale", "S", "--fold", 0, "--epochs", 4, "--iterations", 3, "--device", "cpu")
    assert run_stu(workspace, *command, "--workers", 0) == 1
    error = _read_error(capfd)
    assert "the GPU is gone in epoch 2: CUDA error" in error and "nvidia-smi" in error and "Traceback" not in error
    assert (model / "fold_0" / "checkpoint_final.pth").read_bytes() == before


def test_a_full_disk_stops_a_prediction_and_the_same_command_goes_on(workspace, model, tmp_path, capfd):
    # Random weights make masks of noise, which no compression makes smaller than the limit.
    images = write_tiny_dataset(tmp_path / "images", 904, num_cases=3, shape=(16, 32, 32)) / "imagesTr"
    masks = tmp_path / "masks"
    flags = ("--device", "cpu", "--tta", "none", "--workers", 0, "-q")
    command = ("predict", "-i", images, "-o", masks, "-m", model, *flags)
    with _limit_file_size(1024):
        assert run_stu(workspace, *command) == 5
    assert "the mask could not be verified after writing" in _read_error(capfd)
    assert not list(masks.glob("*.nii.gz"))
    _require_no_leftovers(masks)
    assert run_stu(workspace, *command) == 0
    assert len(list(masks.glob("*.nii.gz"))) == 3


def test_a_full_disk_stops_a_validation_and_the_same_call_goes_on(tiny: Tiny, trained: Path, tmp_path):
    results = tmp_path / "results"
    model = tiny.model_folder(results=results)
    shutil.copytree(trained, model, ignore=shutil.ignore_patterns("validation"))
    config = TrainConfig(dataset=tiny.dataset, scale="S", device="cpu", num_workers=0)
    validation = model / "fold_0" / "validation"

    def fill_disk(event: object) -> None:
        if isinstance(event, Progress) and event.step == "validate" and event.done == 1:
            stack.enter_context(_limit_file_size(0))

    with use_variables(make_workspace(tiny.workspace.raw.parent, results=results)):
        with contextlib.ExitStack() as stack, pytest.raises(StorageError, match="could not be verified after writing"):
            train(config, listen=fill_disk)
        assert [path.name for path in validation.iterdir()] == ["case_003.nii.gz"]
        result = train(config)
    summary = json.loads((validation / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2 and result.mean_dice is not None


def _refuse(capfd, workspace: Workspace, exit_code: int, *arguments: object) -> str:
    """Run a command that must fail with a code, a clear message and no new results; return the message."""
    before = hash_tree(workspace.raw.parent)
    code = run_stu(workspace, *arguments)
    error = _read_error(capfd)
    assert code == exit_code, error
    assert hash_tree(workspace.raw.parent) == before
    return error


def _read_error(capfd) -> str:
    """Return the error message; fail when it is not one clear line, its details and a hint."""
    talk = capfd.readouterr().err
    assert "Traceback" not in talk, talk
    start = talk.rfind("error: ")
    assert start >= 0, talk
    lines = talk[start:].splitlines()
    assert [line[:7] for line in lines[1:]].count(" hint: ") == 1, talk
    assert all(line.startswith(("     - ", "   in: ", " hint: ")) for line in lines[1:]), talk
    return "\n".join(lines)


def _damage(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    elif damage == "text":
        content = bytearray(gzip.compress(b"not an image"))
    else:
        content = bytearray()
    path.write_bytes(content)


@contextlib.contextmanager
def _limit_file_size(num_bytes: int) -> Iterator[None]:
    """Let every file of this process end at a size, which is how a full disk looks to who writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _require_no_leftovers(folder: Path) -> None:
    assert not [path for path in folder.rglob("*") if path.name.startswith(".stu-tmp-") or path.suffix == ".tmp"]
