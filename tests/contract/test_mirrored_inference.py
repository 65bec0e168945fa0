"""Mirrored inference against nnU-Net's own, and what each does with the other's checkpoints."""

from __future__ import annotations

import contextlib
import inspect
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
from stu_pipeline.nnunet.mirrored_inference import MirroredPredictor
from stu_pipeline.nnunet.model import build_network
from stu_pipeline.prediction.config import PredictConfig
from stu_pipeline.prediction.ensemble import InferenceSettings, Member
from stu_pipeline.prediction.model_folder import open_model_folder
from stu_pipeline.prediction.predict import predict
from tests.model_folders import write_model_folder
from tests.synthetic import make_image, make_label_map, write_volume

LABELS = {"background": 0, "kidney_left": 1, "kidney_right": 2}
SWAPPING = Mirroring(axes=(0, 1, 2), swapping_axes=(2,), pairs=((1, 2),))


def test_nnunet_mirrors_in_the_method_that_is_replaced():
    method = nnUNetPredictor._internal_maybe_mirror_and_predict
    assert list(inspect.signature(method).parameters) == ["self", "x"]
    assert "_internal_maybe_mirror_and_predict" in inspect.getsource(
        nnUNetPredictor._internal_predict_sliding_window_return_logits
    )


@pytest.mark.parametrize("axes", [(), (1,), (0, 1, 2)])
def test_without_a_swap_the_logits_are_nnunets_bit_by_bit(tmp_path: Path, axes: tuple[int, ...]):
    folder = write_model_folder(tmp_path, network="PlainConvUNet", mirror_axes=axes or None)
    image = torch.randn(1, 18, 20, 17, generator=torch.Generator().manual_seed(0))
    with silence():
        stock, ours = open_stock(folder, nnUNetPredictor), open_stock(folder, MirroredPredictor)
        ours.use_mirroring_of(Mirroring(axes=axes), num_image_channels=1)
        assert torch.equal(
            ours.predict_sliding_window_return_logits(image), stock.predict_sliding_window_return_logits(image)
        )


def test_nnunet_cannot_mirror_along_no_axes_so_it_is_told_none(tmp_path: Path):
    folder = write_model_folder(tmp_path, network="PlainConvUNet", mirror_axes=())
    with silence(), pytest.raises(ValueError, match="empty"):
        open_stock(folder, nnUNetPredictor).predict_sliding_window_return_logits(torch.zeros(1, 16, 16, 16))
    with silence():
        ours = open_stock(folder, MirroredPredictor)
        ours.use_mirroring_of(Mirroring(axes=()), num_image_channels=1)
    assert ours.allowed_mirroring_axes is None


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
    member = Member(model, InferenceSettings(device=torch.device("cpu")))
    found = member._predict_fold(0, image, [], lambda done, count: None)
    torch.testing.assert_close(found, total / 8, rtol=1e-4, atol=1e-4)
    alone = Member(model, InferenceSettings(device=torch.device("cpu"), use_mirroring=False))
    torch.testing.assert_close(
        alone._predict_fold(0, image, [], lambda done, count: None), network(image[None])[0], rtol=1e-4, atol=1e-4
    )


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
    member = Member(model, InferenceSettings(device=torch.device("cpu")))
    assert [tiles.mirror_axes for tiles in member._tiles] == [(0, 1, 2), (0,)]
    assert [tiles.side_swap is None for tiles in member._tiles] == [False, True]
    image = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    network = build_network(model.model, model.folds[1].load(), torch.device("cpu"))
    expected = (network(image[None]) + network(image[None].flip(2)).flip(2))[0] / 2
    found = [member._predict_fold(fold, image, [], lambda done, count: None) for fold in (0, 1)]
    torch.testing.assert_close(found[1], expected, rtol=1e-4, atol=1e-4)
    alone = Member(open_model_folder(folder, (0,)), InferenceSettings(device=torch.device("cpu")))
    assert torch.equal(found[0], alone._predict_fold(0, image, [], lambda done, count: None))


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
        Member(open_model_folder(folder), InferenceSettings(device=torch.device("cpu")))
    assert caught.value.where == folder / "fold_0" / "checkpoint_final.pth"


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
