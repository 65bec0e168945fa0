"""Mirrored copies: what the checkpoint says is averaged, and what nnU-Net makes of our checkpoints."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.errors import ModelError
from stu_pipeline.inference.window import slide
from stu_pipeline.inference.window_settings import WindowNetwork, WindowSettings
from stu_pipeline.nnunet.model import build_network
from stu_pipeline.prediction.config import PredictConfig
from stu_pipeline.prediction.models.model_folder import ModelFolder, open_model_folder
from stu_pipeline.prediction.models.networks import InferenceSettings, open_networks
from stu_pipeline.prediction.predict import predict
from tests.model_folders import write_model_folder
from tests.synthetic import make_image, make_label_map, write_volume

LABELS = {"background": 0, "kidney_left": 1, "kidney_right": 2}
SWAPPING = Mirroring(axes=(0, 1, 2), swapping_axes=(2,), pairs=((1, 2),))


def test_nnunet_ignores_our_block_and_mirrors_the_plain_axes(tmp_path: Path):
    folder, images = write_two_sided(tmp_path, SWAPPING)
    with silence():
        stock = open_stock(folder, nnUNetPredictor)
        assert stock.allowed_mirroring_axes == (0, 1)
        stock.predict_from_files_sequential(str(images), str(make(tmp_path / "stock")))
    assert (tmp_path / "stock" / "case_0.nii.gz").is_file()


def test_predict_averages_the_copies_that_the_checkpoint_says(tmp_path: Path):
    folder, _ = write_two_sided(tmp_path, SWAPPING)
    model = open_model_folder(folder)
    assert model.mirror_axes == (0, 1, 2) and model.folds[0].mirroring == SWAPPING
    image = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    network = build_network(model.model, model.folds[0].load(), torch.device("cpu"))
    # Written out by hand: flip, turn back, exchange the channels of left and right where axis 2 was flipped.
    total = torch.zeros(3, 16, 16, 16)
    for flips in ([], [0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
        axes = [axis + 2 for axis in flips]
        output = network(image[None].flip(axes)).flip(axes)[0]
        total += output[[0, 2, 1]] if 2 in flips else output
    torch.testing.assert_close(predict_logits(open_all(model)[0], image), total / 8, rtol=1e-4, atol=1e-4)
    alone = predict_logits(open_all(model, tta="none")[0], image)
    torch.testing.assert_close(alone, network(image[None])[0], rtol=1e-4, atol=1e-4)


def test_a_mirrored_patient_gets_the_mirrored_mask_with_left_and_right_exchanged(tmp_path: Path):
    # With all eight copies averaged, any network becomes symmetric: the test holds for random weights.
    folder, images = write_two_sided(tmp_path, SWAPPING)
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(images / "case_0_0000.nii.gz")))
    turned = tmp_path / "turned"
    write_volume(turned / "case_0_0000.nii.gz", np.ascontiguousarray(array[:, :, ::-1]), spacing_mm=(1, 1, 1))
    masks = []
    for source in (images, turned):
        output = tmp_path / f"masks_{source.name}"
        predict(PredictConfig(input=source, output=output, models=(folder,), num_workers=0))
        masks.append(sitk.GetArrayFromImage(sitk.ReadImage(str(output / "case_0.nii.gz"))))
    expected = np.array([0, 2, 1])[masks[0][:, :, ::-1]]
    assert (masks[1] == expected).mean() > 0.999
    assert set(np.unique(masks[0])) >= {1, 2} and (masks[1] == masks[0][:, :, ::-1]).mean() < 0.9


def test_each_fold_is_mirrored_as_it_was_trained(tmp_path: Path):
    folder, _ = write_two_sided(tmp_path, SWAPPING, folds=(0, 1))
    add_block(folder, 1, Mirroring(axes=(0,)))
    model = open_model_folder(folder)
    assert [item.mirroring for item in model.folds] == [SWAPPING, Mirroring(axes=(0,))]
    networks = open_all(model)
    assert [len(item.mirrorings) for item in networks] == [8, 2]
    assert [item.side_swap is None for item in networks] == [False, True]
    image = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    network = build_network(model.model, model.folds[1].load(), torch.device("cpu"))
    expected = (network(image[None]) + network(image[None].flip(2)).flip(2))[0] / 2
    found = [predict_logits(item, image) for item in networks]
    torch.testing.assert_close(found[1], expected, rtol=1e-4, atol=1e-4)
    alone = open_all(open_model_folder(folder, (0,)))[0]
    assert torch.equal(found[0], predict_logits(alone, image))


def test_the_first_fold_of_a_stock_model_speaks_for_all(tmp_path: Path):
    folder = write_model_folder(tmp_path, network="PlainConvUNet", folds=(0, 1), mirror_axes=(1,))
    change(folder, 1, inference_allowed_mirroring_axes=(0, 1, 2))
    assert [item.mirroring for item in open_model_folder(folder).folds] == [Mirroring(axes=(1,))] * 2


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"axes": [0, 3]}, "mirrors the axes"),
        ({"axes": "all"}, "no usable mirroring"),
        ({"axes": [2], "swapping_axes": [2], "pairs": [[1, 7]]}, "has no partner"),
    ],
)
def test_a_block_that_does_not_fit_the_model_is_refused(tmp_path: Path, block, message):
    folder = write_model_folder(tmp_path, network="PlainConvUNet", labels=LABELS)
    change(folder, 0, stu={"mirroring": block})
    with pytest.raises(ModelError, match=message) as caught:
        open_all(open_model_folder(folder))
    assert caught.value.where == folder / "fold_0" / "checkpoint_final.pth"


def open_all(model: ModelFolder, **options: str) -> tuple[WindowNetwork, ...]:
    return open_networks(model, InferenceSettings(device=torch.device("cpu"), **options), weight=1.0)


def predict_logits(network: WindowNetwork, image: torch.Tensor) -> torch.Tensor:
    settings = WindowSettings(patch_voxels=(16, 16, 16), num_outputs=3)
    return torch.cat([slab.scores.clone() for slab in slide([network], image, settings)], dim=1)


def write_two_sided(place: Path, mirroring: Mirroring, folds: tuple[int, ...] = (0,)) -> tuple[Path, Path]:
    """Write a model with our block and one image whose shape is the patch."""
    folder = write_model_folder(
        place / "results",
        network="PlainConvUNet",
        labels=LABELS,
        spacing_mm=(1.0, 1.0, 1.0),
        folds=folds,
        mirror_axes=mirroring.plain_axes,
    )
    for fold in folds:
        add_block(folder, fold, mirroring)
    image = make_image(make_label_map((16, 16, 16), generator=np.random.default_rng(3)))
    write_volume(place / "images" / "case_0_0000.nii.gz", image, spacing_mm=(1, 1, 1))
    return folder, place / "images"


def add_block(folder: Path, fold: int, mirroring: Mirroring) -> None:
    change(folder, fold, stu={"schema": 1, "mirroring": mirroring.to_json()})


def change(folder: Path, fold: int, **entries: object) -> None:
    path = folder / f"fold_{fold}" / "checkpoint_final.pth"
    torch.save(torch.load(path, weights_only=True) | entries, path)


def open_stock(folder: Path, kind: type[nnUNetPredictor]) -> nnUNetPredictor:
    predictor = kind(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), None)
    return predictor


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


@contextlib.contextmanager
def silence():
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
