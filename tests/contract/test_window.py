"""The streaming window against nnU-Net's own sliding window, on the CPU.

nnU-Net adds logits up in float16, which loses them where weights are tiny; here it adds them up in float32.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window

from stu_pipeline.inference.mirroring import list_mirrorings
from stu_pipeline.inference.tiles import build_importance, find_tile_starts
from stu_pipeline.inference.window import slide
from stu_pipeline.inference.window_settings import WindowNetwork, WindowSettings
from stu_pipeline.nnunet.model import build_network
from stu_pipeline.prediction.models.model_folder import open_model_folder
from tests.model_folders import write_model_folder

CPU = torch.device("cpu")


@pytest.mark.parametrize("step", [0.5, 0.3, 1.0])
@pytest.mark.parametrize("patch", [16, 20, 33, 128])
def test_tiles_lie_where_nnunets_lie(patch: int, step: float):
    for size in range(patch, 5 * patch, 3):
        assert find_tile_starts([size], [patch], step) == compute_steps_for_sliding_window((size,), (patch,), step)


@pytest.mark.parametrize("patch", [(16, 16, 16), (20, 7, 33), (64, 48), (128, 128, 128), (1, 8, 8)])
def test_importance_equals_nnunets(patch: tuple[int, ...]):
    expected = compute_gaussian(patch, sigma_scale=1 / 8, value_scaling_factor=10, device=CPU)
    torch.testing.assert_close(build_importance(patch), expected.float(), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("patch", "shape", "axis"),
    [
        ((16, 16, 16), (30, 41, 16), 0),
        ((16, 16, 16), (30, 41, 16), 1),
        ((16, 16, 16), (17, 16, 35), 2),
        ((16, 16, 16), (9, 20, 15), 1),
        ((16, 16), (5, 23, 30), 0),
        ((16, 16), (3, 10, 40), 2),
    ],
)
def test_logits_equal_nnunets(tmp_path: Path, patch: tuple[int, ...], shape: tuple[int, ...], axis: int):
    axes = tuple(range(len(patch)))
    folder = write_model_folder(
        tmp_path, patch=patch, mirror_axes=axes, spacing_mm=(1.0,) * len(patch), network="PlainConvUNet", folds=(0, 1)
    )
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32))
    expected = _predict_stock(folder, image)
    opened = open_model_folder(folder)
    networks = [
        WindowNetwork(run=build_network(opened.model, fold.load(), CPU), mirrorings=tuple(list_mirrorings(axes)))
        for fold in opened.folds
    ]
    settings = WindowSettings(patch_voxels=patch, num_outputs=3, axis=axis)
    found = torch.cat([slab.scores.clone() for slab in slide(networks, image, settings)], 1 + axis)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found.argmax(0) == expected.argmax(0)).float().mean() >= 0.999


def _predict_stock(folder: Path, image: torch.Tensor) -> torch.Tensor:
    """Let nnU-Net, which asks for `torch.half`, add up its folds and tiles in float32."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        pytest.MonkeyPatch.context() as patch,
    ):
        warnings.simplefilter("ignore")
        predictor = nnUNetPredictor(device=CPU, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), None)
        patch.setattr(torch, "half", torch.float32)
        logits: torch.Tensor = predictor.predict_logits_from_preprocessed_data(image)
        return logits.float()
