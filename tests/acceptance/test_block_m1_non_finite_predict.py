"""Block M1, prediction: numbers that are not finite end in exit 8 and never become a mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stu_pipeline.cli import run
from tests.model_folders import write_model_folder
from tests.synthetic import make_image, make_label_map, write_volume

NON_FINITE = 8


@pytest.fixture
def images(tmp_path):
    image = make_image(make_label_map((8, 18, 20)), generator=np.random.default_rng(0))
    return write_volume(tmp_path / "images" / "case_0000.nii.gz", image).parent


def predict(images, model, output, *options) -> int:
    return run(["predict", "--device", "cpu", "-i", str(images), "-o", str(output), "-m", str(model), *options])


def poison(model, fold, value, *, where):
    """Put a value into one weight of a fold: the first tensor, or the last layer's."""
    path = model / f"fold_{fold}" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=True)
    names = sorted(checkpoint["network_weights"])
    name = names[0] if where == "first" else next(n for n in names if "seg_layers" in n and n.endswith("weight"))
    checkpoint["network_weights"][name].view(-1)[0] = value
    torch.save(checkpoint, path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["first", "last"])
def test_one_weight_that_is_not_finite_in_one_fold_of_three_is_named_before_any_work(
    tmp_path, images, capfd, value, where
):
    model = write_model_folder(tmp_path / "results", network="PlainConvUNet", mirror_axes=(), folds=(0, 1, 2))
    poison(model, 1, value, where=where)
    assert predict(images, model, tmp_path / "out") == NON_FINITE
    error = capfd.readouterr().err
    assert "fold_1" in error and "Traceback" not in error
    assert not list(tmp_path.glob("out/*.nii.gz"))


@pytest.mark.parametrize("options", [(), ("--tta", "none"), ("--probabilities", "npz")])
def test_logits_that_overflow_in_one_fold_write_neither_mask_nor_probabilities(tmp_path, images, capfd, options):
    model = write_model_folder(tmp_path / "results", network="PlainConvUNet", mirror_axes=(2,), folds=(0, 1))
    path = model / "fold_1" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=True)
    for name, weight in checkpoint["network_weights"].items():
        if "seg_layers" in name and name.endswith("weight"):
            weight.fill_(3e38)
    torch.save(checkpoint, path)
    assert predict(images, model, tmp_path / "out", *options) == NON_FINITE
    assert "Traceback" not in capfd.readouterr().err
    assert not [*tmp_path.glob("out/*.nii.gz"), *tmp_path.glob("out/*.npz")]
