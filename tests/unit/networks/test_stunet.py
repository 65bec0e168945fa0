"""The network as nnU-Net uses it: outputs, initialisation, refused arguments, precision and layout."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.layout import build_layout, parameter_shapes
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.networks.stunet import STUNet

FIXTURES = Path(__file__).parents[2] / "fixtures"
CUBIC = [[1, 1, 1], *[[2, 2, 2]] * 5]
FLAT = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2], [1, 1, 1], [1, 1, 1]]
FEATURES = [4, 8, 8, 12, 12, 12]


def build_tiny(strides: list[list[int]] = FLAT, *, conv_op: str = "3d", deep_supervision: bool = False) -> STUNet:
    torch.manual_seed(0)
    network = STUNet(2, 3, strides, FEATURES, [1, 2, 1, 1, 1, 2], conv_op, deep_supervision)
    network.apply(network.initialize)
    return network


@pytest.mark.parametrize("scale", SCALES)
def test_keys_shapes_and_order_are_the_published_ones_up_to_the_heads(scale: str) -> None:
    spec = SCALES[scale]
    with torch.device("meta"):
        network = STUNet(1, 105, CUBIC, spec.features_per_stage, spec.n_blocks_per_stage)
    published = json.loads((FIXTURES / f"stunet_keys_{spec.name}.json").read_text())
    expected = [(key.replace("seg_outputs.", "decoder.seg_layers."), tuple(shape)) for key, shape in published]

    assert [(key, tuple(weight.shape)) for key, weight in network.state_dict().items()] == expected
    layout = build_layout(CUBIC, spec.features_per_stage, spec.n_blocks_per_stage)
    assert list(parameter_shapes(layout, 1, 105)) == expected


@pytest.mark.parametrize(
    ("strides", "patch"),
    [
        (CUBIC, (32, 64, 32)),
        (FLAT, (4, 16, 24)),
        ([[1, 1, 1]] * 6, (3, 4, 5)),
        ([[1, 1, 1], [1, 3, 2], [1, 1, 1], [2, 1, 1], [1, 2, 2], [1, 1, 1]], (4, 12, 8)),
        ([[1, 1], *[[2, 2]] * 5], (32, 64)),
        ([[1, 1], [2, 1], [2, 2], [1, 2], [1, 1], [1, 1]], (8, 12)),
    ],
)
def test_outputs_follow_the_strides_highest_resolution_first(strides: list[list[int]], patch: tuple[int, ...]) -> None:
    network = build_tiny(strides, conv_op=f"{len(patch)}d", deep_supervision=True).eval()
    image = torch.randn(2, 2, *patch)
    sizes = []
    size = patch
    for stride in strides[:-1]:
        size = tuple(voxels // step for voxels, step in zip(size, stride, strict=True))
        sizes.append((2, 3, *size))

    with torch.no_grad():
        outputs = network(image)
        network.decoder.deep_supervision = False
        single = network(image)

    assert isinstance(outputs, list)
    assert [tuple(logits.shape) for logits in outputs] == sizes
    assert torch.equal(single, outputs[0])


@pytest.mark.parametrize("conv_op", ["3d", "2d"])
def test_gradient_reaches_every_parameter_with_deep_supervision(conv_op: str) -> None:
    strides = FLAT if conv_op == "3d" else [stride[1:] for stride in FLAT]
    network = build_tiny(strides, conv_op=conv_op, deep_supervision=True)
    image = torch.randn(2, 2, *((4, 16, 24)[3 - int(conv_op[0]) :]))

    torch.stack([logits.square().mean() for logits in network(image)]).sum().backward()

    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        # A bias before instance normalisation has no effect, so its gradient is rounding only.
        if not name.endswith(("conv1.bias", "conv2.bias")):
            assert weight.grad.abs().max() > 0, name


def test_only_the_finest_head_gets_a_gradient_without_deep_supervision() -> None:
    network = build_tiny()
    network(torch.randn(1, 2, 4, 16, 24)).mean().backward()

    without = {name for name, weight in network.named_parameters() if weight.grad is None}
    assert without == {f"decoder.seg_layers.{level}.{part}" for level in range(4) for part in ("weight", "bias")}


@pytest.mark.parametrize("conv_op", ["3d", "2d"])
def test_initialisation_is_he_with_zero_biases(conv_op: str) -> None:
    torch.manual_seed(0)
    strides = CUBIC if conv_op == "3d" else [stride[1:] for stride in CUBIC]
    network = STUNet(1, 8, strides, [16, 32, 32, 64, 64, 64], 1, conv_op)
    network.apply(network.initialize)

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            fan_in = module.weight[0].numel()
            expected = math.sqrt(2 / (1 + 0.01**2) / fan_in)
            # The standard deviation of n normal samples scatters by 1/sqrt(2n).
            tolerance = 5 / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(expected, rel=tolerance), name
            assert torch.count_nonzero(module.bias) == 0, name
        elif isinstance(module, nn.InstanceNorm2d | nn.InstanceNorm3d):
            assert torch.equal(module.weight, torch.ones_like(module.weight)), name
            assert module.eps == 1e-5


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"strides": CUBIC[1:]}, "strides have 5 entries, expected 6"),
        ({"strides": [*CUBIC, [1, 1, 1]]}, "strides have 7 entries, expected 6"),
        ({"strides": [[2, 2, 2]] * 6}, "first stride .* is not all ones"),
        ({"strides": [[1, 1]] * 6}, "is not 3 positive whole numbers"),
        ({"strides": [[1, 1, 1], *[[0, 2, 2]] * 5]}, "is not 3 positive whole numbers"),
        ({"strides": [1, 2, 2, 2, 2, 2]}, "are not a list of lists"),
        ({"features_per_stage": [16, 32]}, "features_per_stage"),
        ({"features_per_stage": [16, 32, 64, 128, 256, 2.5]}, "features_per_stage"),
        ({"n_blocks_per_stage": [1, 1, 1, 1, 1, 0]}, "n_blocks_per_stage"),
        ({"n_blocks_per_stage": 0}, "n_blocks_per_stage"),
        ({"conv_op": "torch.nn.Conv3d"}, "conv_op 'torch.nn.Conv3d' is unknown"),
        ({"input_channels": 0}, "0 input channels"),
        ({"num_classes": 0}, "0 outputs"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, object], problem: str) -> None:
    arguments = {
        "input_channels": 1,
        "num_classes": 2,
        "strides": CUBIC,
        "features_per_stage": FEATURES,
        "n_blocks_per_stage": 1,
    }
    with pytest.raises(ModelError, match=problem):
        STUNet(**(arguments | change))


def test_all_bad_arguments_are_listed_at_once() -> None:
    with pytest.raises(ModelError) as caught:
        STUNet(1, 2, CUBIC[1:], [1], [])
    assert len(caught.value.details) == 2


def test_one_block_count_stands_for_all_stages() -> None:
    with torch.device("meta"):
        keys = [list(STUNet(1, 2, CUBIC, FEATURES, blocks).state_dict()) for blocks in (2, [2] * 6)]

    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((1, 2, 4, 16, 20), "patch '4x16x20' is not a multiple of '2x8x8'"),
        ((1, 2, 2, 8, 8), "single voxel"),
        ((1, 2, 16, 16), "2 axes, expected 3"),
    ],
)
def test_an_input_that_does_not_fit_the_strides_is_refused(shape: tuple[int, ...], problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        build_tiny()(torch.zeros(shape))


def test_the_input_is_left_unchanged() -> None:
    image = torch.randn(1, 2, 4, 16, 24)
    copy = image.clone()
    with torch.no_grad():
        build_tiny()(image)

    assert torch.equal(image, copy)


def test_channels_last_gives_the_same_outputs() -> None:
    network = build_tiny().eval()
    image = torch.randn(2, 2, 4, 16, 24)
    with torch.no_grad():
        expected = network(image)
        network.to(memory_format=torch.channels_last_3d)
        found = network(image.to(memory_format=torch.channels_last_3d))

    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_bf16_autocast_trains_with_finite_gradients_close_to_float32() -> None:
    network = build_tiny(deep_supervision=True)
    # The deepest map has 64 voxels; on fewer, PyTorch 2.13 computes wrong bf16 gradients on the CPU (decision 0007).
    image = torch.randn(2, 2, 8, 32, 32)
    expected = network(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = network(image)
    torch.stack([logits.float().square().mean() for logits in outputs]).sum().backward()

    assert all(torch.isfinite(weight.grad).all() for weight in network.parameters())
    assert (outputs[0].float() - expected[0]).abs().mean() < 0.1 * expected[0].abs().mean()


def test_compiling_captures_one_graph_and_follows_the_deep_supervision_switch() -> None:
    network = build_tiny(deep_supervision=True).eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    image = torch.randn(1, 2, 4, 16, 24)
    with torch.no_grad():
        expected = network(image)
        assert len(compiled(image)) == 5
        network.decoder.deep_supervision = False
        found = compiled(image)

    torch.testing.assert_close(found, expected[0])
