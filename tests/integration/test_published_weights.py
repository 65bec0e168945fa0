"""Released weights and packages between `stu` and stock nnU-Net, in both directions and on the CPU.

The files are in the published layout and of the real size of S; their weights are random, as no released file is here.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from stu_pipeline.transfer.packages.config import ExportConfig, InstallConfig
from stu_pipeline.transfer.packages.export import export_weights
from stu_pipeline.transfer.packages.install import install_weights
from stu_pipeline.workspace import Workspace
from tests.integration.commands import (
    make_workspace,
    measure_agreement,
    read_labels,
    run_stock,
    run_stu,
    use_variables,
)
from tests.model_folders import write_model_folder
from tests.packages import DATASET, MODEL
from tests.published_files import make_published_plans, write_published_model, write_published_sidecar

SHARE_OF_EQUAL_VOXELS = 0.999
LOG_ODDS_OF_A_TIE = 0.1
"""Stock nnU-Net keeps logits in half precision. Here they reach 130, where its steps are 0.06 to 0.13."""
NAMES = ("background", "liver", "spleen", "kidney_left", "kidney_right")
PLAN = "stuSConvertedPlans"


def spread_heads(state: dict[str, torch.Tensor]) -> None:
    """Let the outputs differ clearly, as those of a trained network do: stock adds logits up in float16."""
    for key, tensor in state.items():
        if key.startswith("seg_outputs") and key.endswith("weight"):
            tensor.sub_(tensor.mean(dim=1, keepdim=True)).mul_(4)


def write_image(folder: Path, shape: tuple[int, ...], spacing_mm: float) -> Path:
    """Write one image of smooth blobs, so that labels have borders, not noise."""
    axes = np.meshgrid(*(np.arange(size) * 0.45 for size in shape), indexing="ij")
    voxels = 200 * np.sin(axes[0]) * np.cos(1.3 * axes[1]) + 150 * np.sin(0.7 * axes[2] + axes[0])
    image = sitk.GetImageFromArray(voxels.astype(np.float32))
    image.SetSpacing((spacing_mm,) * 3)
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(folder / "case_0000.nii.gz"))
    return folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def converted(workspace: Workspace) -> Path:
    """A model folder made of a file in the published layout, with a small patch and few outputs."""
    file = workspace.raw.parent / "small_ep4k.model"
    write_published_model(file, num_classes=len(NAMES), sidecar=False, change_state=spread_heads)
    stage = make_published_plans()["plans_per_stage"][0] | {"patch_size": np.array([32, 32, 64])}
    write_published_sidecar(file.with_name(f"{file.name}.pkl"), num_classes=len(NAMES), plans_per_stage={0: stage})
    labels = workspace.raw.parent / "labels.json"
    labels.write_text(json.dumps(NAMES))
    place = ("--labels", labels, "--dataset-name", "Dataset802_Published", "--mirror", "all")
    assert run_stu(workspace, "weights", "convert", file, *place, "-q") == 0
    return workspace.results / "Dataset802_Published" / f"nnUNetTrainer__{PLAN}__3d_fullres"


@pytest.fixture(scope="module")
def images(workspace: Workspace) -> Path:
    return write_image(workspace.raw.parent / "images", (16, 16, 32), 3.0)


@pytest.fixture(scope="module")
def masks(workspace: Workspace, converted: Path, images: Path) -> Path:
    output = workspace.raw.parent / "masks"
    predict(workspace, images, output, converted)
    return output


def predict(workspace: Workspace, images: Path, output: Path, model: Path, *more: object) -> None:
    flags = ("-m", model, "--device", "cpu", "--precision", "fp32", "--workers", 0, "-q", *more)
    assert run_stu(workspace, "predict", "-i", images, "-o", output, *flags) == 0


def predict_in_process(model: Path, images: Path, output: Path) -> None:
    """Let stock nnU-Net's predictor predict, without its workers."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    output.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model), (0,))
        files = [[str(file)] for file in sorted(images.glob("*.nii.gz"))]
        predictor.predict_from_files_sequential(files, [str(output / "case")])


@pytest.mark.integration
def test_stock_predicts_the_same_masks_with_converted_weights(workspace, converted, images, masks, tmp_path):
    model = ("-d", 802, "-tr", "nnUNetTrainer", "-p", PLAN, "-c", "3d_fullres", "-f", 0, "-device", "cpu")
    run_stock(workspace, "nnUNetv2_predict", "-i", images, "-o", tmp_path / "out", *model, "-npp", 0, "-nps", 0)
    assert measure_agreement(masks, tmp_path / "out") >= SHARE_OF_EQUAL_VOXELS


@pytest.mark.integration
def test_every_form_that_is_exported_predicts_the_same_masks(workspace, converted, images, masks, tmp_path):
    for ending in (".zip", ".safetensors"):
        package, results = tmp_path / f"m{ending}", tmp_path / f"results{ending}"
        assert run_stu(workspace, "weights", "export", converted, "-o", package, "-q") == 0
        assert run_stu(workspace, "weights", "install", package, "--results", results, "-q") == 0
        predict(workspace, images, tmp_path / f"masks{ending}", results / converted.parent.name / converted.name)
        assert measure_agreement(masks, tmp_path / f"masks{ending}") == 1
    file, labels = tmp_path / "back.model", workspace.raw.parent / "labels.json"
    assert run_stu(workspace, "weights", "export", converted, "-o", file, "-q") == 0
    place = ("--labels", labels, "-o", tmp_path / "again", "--mirror", "all")
    assert run_stu(workspace, "weights", "convert", file, *place, "-q") == 0
    predict(workspace, images, tmp_path / "masks.model", tmp_path / "again")
    assert measure_agreement(masks, tmp_path / "masks.model") == 1


@pytest.mark.integration
def test_stock_installs_our_package(workspace, converted, tmp_path):
    from nnunetv2.model_sharing.model_import import install_model_from_zip_file

    export_weights(ExportConfig(source=converted, output=tmp_path / "m.zip"))
    elsewhere = make_workspace(tmp_path / "other")
    elsewhere.results.mkdir(parents=True)
    with use_variables(elsewhere):
        install_model_from_zip_file(str(tmp_path / "m.zip"))
    installed = elsewhere.results / converted.parent.name / converted.name
    names = ("plans.json", "dataset.json")
    assert all((installed / name).read_bytes() == (converted / name).read_bytes() for name in names)
    found = torch.load(installed / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    own = torch.load(converted / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    assert list(found) == list(own) and all(torch.equal(found[key], tensor) for key, tensor in own.items())


@pytest.mark.integration
@pytest.mark.parametrize("network", ["STUNet", "PlainConvUNet"])
def test_we_install_the_package_of_stock(tmp_path, network):
    from nnunetv2.model_sharing.model_export import export_pretrained_model

    workspace = make_workspace(tmp_path)
    model = write_model_folder(workspace.results, network=network, folds=(0, 1))
    workspace.raw.mkdir()
    for name in ("dataset_fingerprint.json", "fold_0/validation/summary.json", "fold_1/validation/summary.json"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text('{"mean": NaN}')
    for fold in (0, 1):
        (model / f"fold_{fold}" / "progress.png").write_bytes(b"png")
        shutil.copyfile(model / "plans.json", model / f"fold_{fold}" / "debug.json")
    crossval = model / "crossval_results_folds_0_1"
    crossval.mkdir()
    (crossval / "postprocessing.pkl").write_bytes(b"a pickle")
    (crossval / "postprocessing.json").write_text("{}")
    with use_variables(workspace):
        export_pretrained_model(
            DATASET, str(tmp_path / "m.zip"), configurations=("3d_fullres",), plans_identifier="stuSPlans", folds=(0, 1)
        )
    result = install_weights(InstallConfig(file=tmp_path / "m.zip", results=tmp_path / "there"))
    assert result.models == (tmp_path / "there" / DATASET / MODEL,)
    assert result.num_checkpoints == 2 and not result.is_proven
    assert [Path(name).name for name in result.left_out] == ["postprocessing.pkl"]
    for fold in (0, 1):
        file = f"fold_{fold}/checkpoint_final.pth"
        assert (result.models[0] / file).read_bytes() == (model / file).read_bytes()


@pytest.mark.slow
def test_the_released_plan_predicts_as_stock_does_at_real_size(tmp_path):
    # One tile of 128^3 without mirrored copies: half a minute on a core, for either.
    workspace = make_workspace(tmp_path)
    file = tmp_path / "small_ep4k.model"
    write_published_model(file, change_state=spread_heads)
    assert run_stu(workspace, "weights", "convert", file, "-q") == 0
    model = workspace.results / "Dataset801_TotalSegmentator104" / "nnUNetTrainer__stuSPublishedPlans__3d_fullres"
    images = write_image(tmp_path / "images", (40, 40, 40), 3.0)
    predict(workspace, images, tmp_path / "ours", model, "--probabilities", "npz")
    predict_in_process(model, images, tmp_path / "stock")
    assert len(read_labels(tmp_path / "ours")["case.nii.gz"]) > 10
    # Random weights have many near ties among 105 outputs, more than trained ones.
    assert measure_agreement(tmp_path / "ours", tmp_path / "stock") >= 0.998
    assert measure_log_odds(tmp_path / "ours", tmp_path / "stock") <= LOG_ODDS_OF_A_TIE


def measure_log_odds(ours: Path, stock: Path) -> float:
    """Return by how much, at most, we prefer our label where the masks differ; 0 where they are equal."""
    first, second = (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "case.nii.gz"))) for folder in (ours, stock))
    with np.load(ours / "case.npz") as content:
        probabilities = content["probabilities"].astype(np.float64)
    place = np.nonzero(first != second)
    odds = np.log(probabilities[(first[place], *place)] / probabilities[(second[place], *place)])
    print(f"{odds.size} voxels differ, by log odds of at most {odds.max(initial=0):.4f}")
    return float(odds.max(initial=0))
