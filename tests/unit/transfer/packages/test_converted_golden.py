"""Released weights that were converted compute what the published network computed."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

from stu_pipeline.nnunet.checkpoint import read_checkpoint
from stu_pipeline.nnunet.model import build_network, open_engine_model
from stu_pipeline.transfer.packages.config import ConvertConfig
from stu_pipeline.transfer.packages.convert import convert_weights
from tests.published_files import make_published_plans, make_published_state, write_published_sidecar

GOLDEN = Path(__file__).resolve().parents[3] / "fixtures" / "stunet_small_golden.npz"
NUM_CLASSES = 5
TOLERANCE = 1e-4


def make_golden_state():
    """Make the weights of the reference outputs (`tests/fixtures/README.md`)."""
    state = OrderedDict()
    for index, (key, tensor) in enumerate(make_published_state("S", num_classes=NUM_CLASSES).items()):
        wave = np.sin(0.37 * np.arange(tensor.numel()) + index).reshape(tuple(tensor.shape))
        if tensor.ndim == 5:
            wave *= np.sqrt(2 / np.prod(tensor.shape[1:]))
        elif ".norm" in key and key.endswith(".weight"):
            wave = 1 + 0.1 * wave
        else:
            wave *= 0.1
        state[key] = torch.from_numpy(wave.astype(np.float32))
    return state


def test_a_converted_file_gives_the_reference_outputs(tmp_path):
    file = tmp_path / "small_ep4k.model"
    torch.save({"epoch": 4000, "state_dict": make_golden_state(), "plot_stuff": ([], [], [], [])}, file)
    stage = make_published_plans()["plans_per_stage"][0] | {"patch_size": np.array([32, 32, 64])}
    write_published_sidecar(tmp_path / "small_ep4k.model.pkl", num_classes=NUM_CLASSES, plans_per_stage={0: stage})
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(["background", *(f"part{index}" for index in range(1, NUM_CLASSES))]))
    folder = convert_weights(ConvertConfig(file=file, labels=labels, output=tmp_path / "model")).model_folder

    plan, dataset = (json.loads((folder / name).read_text()) for name in ("plans.json", "dataset.json"))
    model = open_engine_model(plan, dataset, "3d_fullres", where=folder / "plans.json")
    weights = read_checkpoint(folder / "fold_0" / "checkpoint_final.pth")["network_weights"]
    network = build_network(model, weights, torch.device("cpu"))
    voxel = np.arange(32 * 32 * 64)
    image = np.sin(0.011 * voxel + 3 * np.cos(0.0007 * voxel)).reshape(1, 1, 32, 32, 64).astype(np.float32)
    expected = np.load(GOLDEN)["logits_0"]
    with torch.inference_mode():
        found = network(torch.from_numpy(image)).numpy()
    assert found.shape == expected.shape and np.abs(found - expected).max() <= TOLERANCE
