"""Our masks against nnU-Net's own predictor, on the CPU.

nnU-Net adds logits up in float16, which loses them where the weights are tiny (the edges of an image). Most
tests therefore let it add up in float32: there both must agree.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from stu_pipeline.prediction.config import PredictConfig
from stu_pipeline.prediction.predict import predict
from tests.model_folders import write_model_folder
from tests.synthetic import make_image, make_label_map, write_volume

SHARE_OF_EQUAL_VOXELS = 0.999


CASES: dict[str, dict[str, Any]] = {
    "stu-net": {"mirror_axes": (0, 1, 2)},
    "plain u-net, two folds": {"network": "PlainConvUNet", "folds": (0, 1)},
    "residual encoder u-net": {"network": "ResidualEncoderUNet"},
    "residual u-net": {"network": "ResidualUNet", "mirror_axes": (1,)},
    "no mirroring": {"mirror_axes": None},
    "2d": {"patch": (16, 16), "spacing_mm": (0.9, 0.9), "mirror_axes": (0, 1), "configuration": "2d"},
    "regions": {
        "labels": {"background": 0, "whole": [1, 2], "core": 2},
        "regions_class_order": (1, 2),
        "network": "PlainConvUNet",
    },
    "ignore label": {"labels": {"background": 0, "label1": 1, "label2": 2, "ignore": 3}},
    "two channels": {"num_channels": 2, "network": "PlainConvUNet"},
    "CT values, other spacing and axes": {
        "normalisation": "CTNormalization",
        "transpose": (2, 0, 1),
        "spacing_mm": (1.3, 2.4, 0.9),
    },
    "separate z": {"spacing_mm": (4.0, 0.8, 0.8), "image_spacing_mm": (5.0, 1.0, 1.0)},
    "image smaller than the patch": {"patch": (16, 32, 32), "shape": (10, 20, 14)},
    "nibabel": {"reader": "NibabelIO"},
    "zero border": {"zero_border": True, "use_mask_for_norm": [True]},
    "torch resampling": {"resampling_fn_probabilities": "resample_torch_fornnunet"}
    | {"resampling_fn_probabilities_kwargs": {"is_seg": False, "force_separate_z": None}},
}


@pytest.mark.parametrize("name", CASES)
def test_masks_equal_nnunets(tmp_path: Path, name: str):
    changes = {"mirror_axes": (2,)} | CASES[name]
    images = _write_images(
        tmp_path / "images",
        shape=changes.pop("shape", (18, 20, 24)),
        spacing_mm=changes.pop("image_spacing_mm", (2.0, 1.0, 1.0)),
        num_channels=changes.get("num_channels", 1),
        zero_border=changes.pop("zero_border", False),
    )
    folder = write_model_folder(tmp_path / "results", **changes)
    _compare(folder, images, tmp_path, ".nii.gz")


def test_masks_equal_nnunets_in_float16(tmp_path: Path):
    images = _write_images(tmp_path / "images")
    _compare(write_model_folder(tmp_path / "results"), images, tmp_path, ".nii.gz", in_float16=True)


def test_pictures_equal_nnunets(tmp_path: Path):
    images = tmp_path / "images"
    for index in range(2):
        label = make_label_map((40, 52), generator=np.random.default_rng(index))
        write_volume(images / f"case_{index}_0000.png", make_image(label))
    folder = write_model_folder(
        tmp_path / "results",
        network="PlainConvUNet",
        patch=(32, 32),
        spacing_mm=(1.0, 1.0),
        mirror_axes=(0, 1),
        reader="NaturalImage2DIO",
        file_ending=".png",
    )
    _compare(folder, images, tmp_path, ".png")


def test_cascade_equals_nnunets(tmp_path: Path):
    images = _write_images(tmp_path / "images")
    results = tmp_path / "results"
    low = write_model_folder(
        results, network="PlainConvUNet", configuration="3d_lowres", spacing_mm=(3.0, 2.0, 2.0), seed=5
    )
    high = write_model_folder(
        results, network="PlainConvUNet", configuration="3d_cascade_fullres", previous_stage="3d_lowres"
    )
    previous = tmp_path / "previous"
    previous.mkdir()
    _predict_stock(low, images, previous)
    _compare(high, images, tmp_path, ".nii.gz", previous=previous)


def test_probabilities_are_readable_by_nnunets_ensembling(tmp_path: Path):
    from nnunetv2.ensembling.ensemble import average_probabilities

    images = _write_images(tmp_path / "images", num_cases=1)
    folder = write_model_folder(tmp_path / "results", network="PlainConvUNet", spacing_mm=(2.0, 1.3, 1.3))
    stock, ours = tmp_path / "stock", tmp_path / "ours"
    stock.mkdir()
    _predict_stock(folder, images, stock, save_probabilities=True)
    predict(
        PredictConfig(input=images, output=ours, models=(folder,), probabilities="npz", num_workers=0, precision="fp32")
    )
    expected = average_probabilities([str(stock / "case_0.npz")])
    np.testing.assert_allclose(average_probabilities([str(ours / "case_0.npz")]), expected, atol=1e-4)
    assert (ours / "case_0.pkl").is_file()


def _compare(folder: Path, images: Path, place: Path, ending: str, **options: Any) -> None:
    stock = place / "stock"
    stock.mkdir()
    _predict_stock(folder, images, stock, **options)
    result = predict(
        PredictConfig(input=images, output=place / "ours", models=(folder,), num_workers=0, precision="fp32")
    )
    assert result.num_done == len(list(images.iterdir())) // max(1, _count_channels(images))
    num_values: set[int] = set()
    for mask in sorted(stock.glob(f"case_*{ending}")):
        expected, found = sitk.ReadImage(str(mask)), sitk.ReadImage(str(place / "ours" / mask.name))
        assert found.GetPixelID() == expected.GetPixelID()
        for grid in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(found, grid)() == pytest.approx(getattr(expected, grid)())
        a, b = sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected)
        assert _share_equal(a, b) >= SHARE_OF_EQUAL_VOXELS
        num_values |= {int(value) for value in np.unique(b)}
    assert len(num_values) > 1, "a mask of one value proves nothing"


def _predict_stock(
    folder: Path,
    images: Path,
    output: Path,
    *,
    previous: Path | None = None,
    save_probabilities: bool = False,
    in_float16: bool = False,
) -> None:
    with _silence(), contextlib.nullcontext() if in_float16 else _float32():
        _open_stock(folder).predict_from_files_sequential(
            str(images),
            str(output),
            save_probabilities=save_probabilities,
            folder_with_segs_from_prev_stage=None if previous is None else str(previous),
        )


def _open_stock(folder: Path) -> nnUNetPredictor:
    with _silence():
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), None)
    return predictor


@contextlib.contextmanager
def _silence():
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _float32():
    """Let nnU-Net, which asks for `torch.half`, add up in float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "half", torch.float32)
        yield


def _write_images(
    folder: Path,
    *,
    num_cases: int = 1,
    num_channels: int = 1,
    shape: tuple[int, ...] = (18, 20, 24),
    spacing_mm: tuple[float, ...] = (2.0, 1.0, 1.0),
    zero_border: bool = False,
) -> Path:
    generator = np.random.default_rng(3)
    for index in range(num_cases):
        labels = make_label_map(shape, generator=generator)
        for channel in range(num_channels):
            image = make_image(labels, generator=generator, gain=1 + channel)
            if zero_border:
                image[:3] = image[:, :4] = image[..., -5:] = 0
            path = folder / f"case_{index}_{channel:04d}.nii.gz"
            direction = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
            write_volume(path, image, spacing_mm=spacing_mm, origin=(5.0, -7.0, 11.0), direction=direction)
    return folder


def _count_channels(images: Path) -> int:
    return len(list(images.glob("case_0_*")))


def _share_equal(first: np.ndarray, second: np.ndarray) -> float:
    return float((first == second).mean())
