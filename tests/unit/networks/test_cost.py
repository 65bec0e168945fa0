"""Analytic counts agree with the published numbers and with what forward hooks see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.blocks import ResidualBlock
from stu_pipeline.networks.cost import (
    count_feature_map_elements,
    count_multiply_adds,
    count_parameters,
    count_saved_elements,
)
from stu_pipeline.networks.layout import build_layout
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.networks.stunet import STUNet

PARAMETERS = {"S": 14_596_941, "B": 58_262_669, "L": 440_302_605, "H": 1_457_326_221}
CUBIC = [[1, 1, 1], *[[2, 2, 2]] * 5]
PUBLISHED = [[1, 1, 1], *[[2, 2, 2]] * 4, [1, 1, 2]]
CASES = {
    "cubic": (CUBIC, [64, 64, 64]),
    "published": (PUBLISHED, [48, 32, 64]),
    "anisotropic with a tail of ones": (
        [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 1, 1], [1, 1, 1]],
        [12, 48, 40],
    ),
    "no pooling": ([[1, 1, 1]] * 6, [3, 5, 7]),
    "stride three": ([[1, 1, 1], [3, 1, 2], [1, 2, 2], [1, 2, 2], [1, 1, 1], [1, 1, 1]], [9, 8, 16]),
    "2d": ([[1, 1], *[[2, 2]] * 5], [96, 64]),
    "2d with a tail of ones": ([[1, 1], [2, 2], [2, 2], [1, 2], [1, 1], [1, 1]], [20, 56]),
}


def count_by_hooks(network: STUNet, patch: list[int], *, in_multiply_adds: bool = False) -> int:
    total = 0

    def add(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * (module.weight[0].numel() if in_multiply_adds else 1)

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.register_forward_hook(add)
    with torch.no_grad():
        network(torch.empty(1, 2, *patch, device="meta"))
    return total


@pytest.mark.parametrize("scale", SCALES)
def test_parameter_counts_are_the_published_ones(scale: str) -> None:
    spec = SCALES[scale]
    with torch.device("meta"):
        network = STUNet(1, 105, CUBIC, spec.features_per_stage, spec.n_blocks_per_stage, deep_supervision=True)

    assert sum(weight.numel() for weight in network.parameters()) == PARAMETERS[scale]
    assert count_parameters(1, 105, spec.features_per_stage, spec.n_blocks_per_stage) == PARAMETERS[scale]


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("case", CASES)
def test_feature_map_count_equals_the_count_by_hooks(case: str, scale: str, deep_supervision: bool) -> None:
    strides, patch = CASES[case]
    spec = SCALES[scale]
    with torch.device("meta"):
        network = STUNet(
            2, 7, strides, spec.features_per_stage, spec.n_blocks_per_stage, f"{len(patch)}d", deep_supervision
        )
    expected = count_by_hooks(network, patch)
    analytic = count_feature_map_elements(
        patch,
        strides,
        spec.features_per_stage,
        spec.num_blocks,
        num_classes=7,
        deep_supervision=deep_supervision,
    )

    assert analytic == expected
    assert network.compute_conv_feature_map_size(patch) == expected


def test_counts_hold_for_uneven_features_and_blocks() -> None:
    features, blocks = [3, 5, 8, 9, 11, 6], [2, 1, 3, 1, 2, 4]
    strides, patch = CASES["published"]
    with torch.device("meta"):
        network = STUNet(2, 7, strides, features, blocks)

    assert count_parameters(2, 7, features, blocks) == sum(weight.numel() for weight in network.parameters())
    assert count_feature_map_elements(patch, strides, features, blocks, num_classes=7) == count_by_hooks(network, patch)


def test_2d_parameters_equal_those_of_the_network() -> None:
    spec = SCALES["S"]
    with torch.device("meta"):
        network = STUNet(3, 2, CASES["2d"][0], spec.features_per_stage, 1, "2d")

    assert count_parameters(3, 2, spec.features_per_stage, 1, conv_op="2d") == sum(
        weight.numel() for weight in network.parameters()
    )


def test_coarse_heads_count_only_with_deep_supervision() -> None:
    spec = SCALES["S"]
    with torch.device("meta"):
        network = STUNet(1, 10, CUBIC, spec.features_per_stage, 1)
    off = network.compute_conv_feature_map_size([64, 64, 64])
    network.decoder.deep_supervision = True

    assert network.compute_conv_feature_map_size([64, 64, 64]) - off == 10 * (32**3 + 16**3 + 8**3 + 4**3)


@pytest.mark.parametrize(("scale", "billions"), [("S", 0.320), ("B", 0.633), ("L", 1.974), ("H", 4.030)])
def test_feature_map_counts_are_those_the_memory_model_was_fitted_on(scale: str, billions: float) -> None:
    spec = SCALES[scale]
    count = count_feature_map_elements(
        [128] * 3, CUBIC, spec.features_per_stage, spec.num_blocks, num_classes=3, deep_supervision=True
    )

    assert count / 1e9 == pytest.approx(billions, abs=6e-4)


@pytest.mark.parametrize(
    ("scale", "strides", "tera"),
    [
        ("S", CUBIC, 0.1294),
        ("B", CUBIC, 0.5062),
        ("L", CUBIC, 3.8035),
        ("H", CUBIC, 12.593),
        ("S", PUBLISHED, 0.1301),
        ("H", PUBLISHED, 12.667),
    ],
)
def test_multiply_adds_are_the_published_ones(scale: str, strides: list[list[int]], tera: float) -> None:
    spec = SCALES[scale]
    count = count_multiply_adds(
        [128] * 3,
        strides,
        spec.features_per_stage,
        spec.num_blocks,
        input_channels=1,
        num_classes=105,
        deep_supervision=True,
    )

    assert count / 1e12 == pytest.approx(tera, rel=5e-4)


def test_multiply_adds_equal_the_count_by_hooks() -> None:
    strides, patch = CASES["stride three"]
    with torch.device("meta"):
        network = STUNet(2, 7, strides, [4, 8, 8, 8, 8, 8], 2)
    analytic = count_multiply_adds(patch, strides, [4, 8, 8, 8, 8, 8], 2, input_channels=2, num_classes=7)

    assert analytic == count_by_hooks(network, patch, in_multiply_adds=True)


@pytest.mark.parametrize(
    ("patch", "problem"),
    [
        ([100, 128, 128], "patch '100x128x128' is not a multiple of '32x32x32'"),
        ([0, 64, 64], "not a multiple"),
        ([32, 32, 32], "leaves a single voxel"),
        ([64, 64], "strides|stride"),
    ],
)
def test_a_patch_that_does_not_fit_is_refused(patch: list[int], problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        count_feature_map_elements(patch, CUBIC, [16, 32, 64, 128, 256, 256], 1, num_classes=2)


def test_numpy_integers_and_tuples_count_as_plain_numbers() -> None:
    strides = tuple(tuple(np.array(stride)) for stride in CUBIC)
    features = [16, 32, 64, 128, 256, 256]

    count = count_feature_map_elements(np.array([64, 64, 64]), strides, features, 1, num_classes=2)

    assert count == count_feature_map_elements([64, 64, 64], CUBIC, features, 1, num_classes=2)
    assert type(count) is int


def count_by_saved_tensors(network: STUNet, patch: list[int]) -> int:
    """Add up the storages that autograd keeps outside checkpoints; statistics of the norms are flat and left out."""
    weights = {weight.untyped_storage()._cdata for weight in network.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in weights and tensor.ndim > 2:
            kept[storage] = tensor
        return tensor

    x = torch.randn(1, 2, *patch)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(x)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) // x.element_size()


SAVED = {
    "cubic": (CUBIC, [32, 32, 64]),
    **{name: CASES[name] for name in ("anisotropic with a tail of ones", "no pooling", "2d")},
}


@pytest.mark.parametrize("num_blocks", [1, 3])
@pytest.mark.parametrize("name", SAVED)
def test_saved_elements_are_those_that_autograd_keeps(name: str, num_blocks: int) -> None:
    strides, patch = SAVED[name]
    features = [2, 4, 6, 8, 10, 10]
    network = STUNet(2, 3, strides, features, num_blocks, conv_op=f"{len(patch)}d", deep_supervision=True)
    counted = count_saved_elements(patch, strides, features, num_blocks, input_channels=2)
    assert counted == count_by_saved_tensors(network, patch)


@pytest.mark.parametrize("num_blocks", [1, 3])
@pytest.mark.parametrize("name", SAVED)
def test_with_checkpointing_the_largest_block_adds_to_what_autograd_keeps(name: str, num_blocks: int) -> None:
    strides, patch = SAVED[name]
    features = [2, 4, 6, 8, 10, 10]
    network = STUNet(2, 3, strides, features, num_blocks, conv_op=f"{len(patch)}d", deep_supervision=True)
    network.set_activation_checkpointing(True)
    counted = count_saved_elements(
        patch, strides, features, num_blocks, input_channels=2, activation_checkpointing=True
    )
    sizes = build_layout(strides, features, num_blocks, f"{len(patch)}d").stage_sizes(patch)
    largest_block = 4 * max(width * int(np.prod(size)) for width, size in zip(features, sizes, strict=True))
    assert counted == count_by_saved_tensors(network, patch) + largest_block


def test_the_inside_of_a_block_is_four_maps() -> None:
    block = ResidualBlock(3, 5, (1, 1, 1), has_projection=True)
    x = torch.randn(1, 3, 6, 8, 10)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim > 2 and tensor.shape[-3:] == x.shape[-3:]:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes() // 4
            tensors.append(tensor)
        return tensor

    tensors: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block(x)
    assert sum(kept.values()) == x.numel() + 4 * 5 * 6 * 8 * 10
