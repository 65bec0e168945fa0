"""Published keys map to ours and back, and shapes tell the scale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.networks.weights import from_published, recognise_scale, to_published

FIXTURES = Path(__file__).parents[2] / "fixtures"
CUBIC = [[1, 1, 1], *[[2, 2, 2]] * 5]


def read_published(scale: str) -> dict[str, torch.Tensor]:
    keys = json.loads((FIXTURES / f"stunet_keys_{SCALES[scale].name}.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in keys}


@pytest.mark.parametrize("scale", SCALES)
def test_published_keys_become_the_networks_keys_and_back(scale: str) -> None:
    spec = SCALES[scale]
    published = read_published(scale)
    with torch.device("meta"):
        network = STUNet(1, 105, CUBIC, spec.features_per_stage, spec.n_blocks_per_stage)

    ours = from_published(published)

    assert list(ours) == list(network.state_dict())
    back = to_published(ours)
    assert list(back) == list(published)
    assert all(back[key] is published[key] for key in published)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrapper_prefixes_are_stripped(prefix: str) -> None:
    published = read_published("S")

    assert from_published({prefix + key: weight for key, weight in published.items()}) == from_published(published)


def test_our_own_keys_pass_unchanged() -> None:
    ours = from_published(read_published("S"))

    assert from_published(ours) == ours


def test_a_foreign_key_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'encoder.stages.0.weight' does not belong"):
        from_published({"encoder.stages.0.weight": 0})


def test_two_keys_for_one_tensor_are_refused() -> None:
    with pytest.raises(ModelError, match="is there already"):
        from_published({"seg_outputs.0.bias": 0, "module.decoder.seg_layers.0.bias": 1})


@pytest.mark.parametrize("scale", SCALES)
def test_scale_channels_and_outputs_are_recognised(scale: str) -> None:
    assert recognise_scale(read_published(scale)) == (scale, 1, 105)


@pytest.mark.parametrize("conv_op", ["2d", "3d"])
def test_own_weights_are_recognised(conv_op: str) -> None:
    strides = [stride[: int(conv_op[0])] for stride in CUBIC]
    with torch.device("meta"):
        network = STUNet(4, 7, strides, SCALES["L"].features_per_stage, 2, conv_op)

    found = recognise_scale({f"module.{key}": weight for key, weight in network.state_dict().items()})

    assert (found.scale, found.num_input_channels, found.num_classes) == ("L", 4, 7)


def test_a_missing_and_a_misshapen_tensor_are_named() -> None:
    weights = read_published("B")
    del weights["upsample_layers.2.conv.bias"]
    weights["conv_blocks_context.3.0.norm1.weight"] = torch.empty(255, device="meta")

    with pytest.raises(ModelError, match="2 of 130 tensors differ") as caught:
        recognise_scale(weights)
    assert caught.value.details == (
        "'upsample_layers.2.conv.bias' is missing",
        "'conv_blocks_context.3.0.norm1.weight' has shape [255], expected [256]",
    )


def test_a_network_of_no_known_scale_is_refused() -> None:
    with torch.device("meta"):
        network = STUNet(1, 2, CUBIC, [24, 48, 96, 192, 384, 384], 1)

    with pytest.raises(ModelError, match=r"width '24' and '1' blocks per stage, known: S 16/1"):
        recognise_scale(network.state_dict())


@pytest.mark.parametrize("weights", [{}, {"seg_outputs.4.bias": torch.zeros(2)}])
def test_weights_without_a_stem_are_refused(weights: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ModelError, match="no STU-Net"):
        recognise_scale(weights)


def test_a_value_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(ModelError, match="is a str, expected a tensor"):
        recognise_scale(read_published("S") | {"seg_outputs.4.bias": "pickle me"})
