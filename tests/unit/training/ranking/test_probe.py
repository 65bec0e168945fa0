"""Patches, features and the linear probe behind a ranking."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from stu_pipeline import PreprocessConfig, preprocess
from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.training.ranking.features import compute_features
from stu_pipeline.training.ranking.linear_probe import score_features
from stu_pipeline.training.ranking.patches import ProbePatch, read_patches
from stu_pipeline.workspace import use_workspace
from tests.planned import CONFIGURATION, IDENTIFIER, PLAN_NAME, write_planned_dataset

STRIDES = ((1, 1, 1), (2, 2, 2), (1, 2, 2), (1, 1, 1), (1, 1, 1), (1, 1, 2))
PATCH = (8, 8, 16)


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("ranking")
    dataset = write_planned_dataset(root, num_cases=1)
    with use_workspace(root):
        preprocess(
            PreprocessConfig(
                dataset=str(dataset.raw), plan_name=PLAN_NAME, configurations=(CONFIGURATION,), num_workers=0
            )
        )
    return dataset.data_folder(IDENTIFIER)


def read(folder, **changes):
    arguments = {"patch": PATCH, "num_channels": 1, "num_patches": 2, "left_out": frozenset(), "seed": 3, **changes}
    return read_patches(folder, "case_000", **arguments)


def test_patches_are_the_same_each_time_and_hold_several_labels(data_folder):
    first, second = read(data_folder), read(data_folder)
    assert len(first) == 2
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.data, other.data) and np.array_equal(one.voxels, other.voxels)
        assert one.data.shape == (1, 1, *PATCH) and len(set(one.labels)) > 1
        assert (one.voxels >= 0).all() and (one.voxels < PATCH).all()


def test_labels_that_are_left_out_are_not_asked_about(data_folder):
    labels = {int(label) for patch in read(data_folder) for label in patch.labels}
    kept = {int(label) for patch in read(data_folder, left_out=frozenset({1})) for label in patch.labels}
    assert 1 in labels and 1 not in kept


def test_features_are_those_of_the_cell_that_a_voxel_lies_in():
    torch.manual_seed(0)
    network = STUNet(1, 2, STRIDES, (2, 3, 4, 5, 6, 7), 1).eval()
    data = torch.randn(1, 1, *PATCH)
    voxels = np.array([[0, 0, 0], [7, 7, 15], [3, 5, 9]])
    found = compute_features(
        network, [ProbePatch(data=data, voxels=voxels, labels=np.zeros(3, dtype=np.int64))], torch.device("cpu")
    )
    assert found.shape == (3, 6 + 5 + 4 + 3 + 2)
    maps = []
    hooks = [stage.register_forward_hook(lambda *a: maps.append(a[2])) for stage in network.conv_blocks_localization]
    with torch.no_grad():
        network(data)
    for hook in hooks:
        hook.remove()
    full = [functional.interpolate(level, size=PATCH, mode="nearest")[0] for level in maps]
    expected = torch.stack([torch.cat([level[:, z, y, x] for level in full]) for z, y, x in voxels])
    assert np.allclose(found, expected.numpy(), atol=1e-6)


def test_the_probe_scores_what_features_tell_and_not_what_they_do_not():
    generator = np.random.default_rng(0)
    labels = [generator.integers(0, 3, 300) for _ in range(6)]
    noise = [generator.normal(size=(300, 5)).astype(np.float32) for _ in range(6)]
    told = [
        np.concatenate([rows, (label == 2)[:, None] * 6 + rows[:, :1]], axis=1)
        for rows, label in zip(noise, labels, strict=True)
    ]
    blind, seeing = score_features(noise, labels), score_features(told, labels)
    assert blind.mean() == pytest.approx(0.5, abs=0.04)
    # One of three labels is told from the others, the other two only from that one.
    assert seeing.mean() > 0.75 and seeing.shape == (6,)


def test_a_case_with_one_label_only_has_no_score():
    generator = np.random.default_rng(0)
    features = [generator.normal(size=(40, 3)).astype(np.float32) for _ in range(4)]
    labels = [np.repeat([0, 1], 20), np.repeat([0, 1], 20), np.repeat([0, 1], 20), np.zeros(40, dtype=np.int64)]
    scores = score_features(features, labels)
    assert np.isnan(scores[3]) and np.isfinite(scores[:3]).all()
