"""Tiny STU-Nets, and the weight files that would hold their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.networks.weights import RecognisedNetwork
from stu_pipeline.transfer.loading.adapt import TargetNetwork
from stu_pipeline.transfer.weight_file import WeightFacts, WeightFile

FEATURES = (4, 6, 8, 8, 8, 8)


def list_strides(num_axes: int = 3) -> list[list[int]]:
    return [[1] * num_axes, [2] * num_axes, *[[1] * num_axes] * 4]


def build_network(
    channels: int = 1, classes: int = 3, *, num_axes: int = 3, features: Sequence[int] = FEATURES, seed: int = 0
) -> STUNet:
    """Build a network whose norms and biases are not at their start either."""
    torch.manual_seed(seed)
    network = STUNet(channels, classes, list_strides(num_axes), features, 1, conv_op=f"{num_axes}d")
    network.apply(network.initialize)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def make_source(network: STUNet, **facts: Any) -> WeightFile:
    """Wrap a network's weights as a file that was read."""
    tensors = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    stem, head = tensors["conv_blocks_context.0.0.conv1.weight"], tensors["decoder.seg_layers.4.bias"]
    return WeightFile(
        path=Path("small.model"),
        form="published",
        identity="0" * 64,
        network=RecognisedNetwork("S", stem.shape[1], head.shape[0]),
        tensors=tensors,
        facts=WeightFacts(**facts),
    )


def make_target(network: STUNet, **changes: Any) -> TargetNetwork:
    """Describe a network as the taker of weights."""
    tensors = network.state_dict()
    num_channels = tensors["conv_blocks_context.0.0.conv1.weight"].shape[1]
    num_classes = tensors["decoder.seg_layers.4.bias"].shape[0]
    described: dict[str, Any] = {
        "label_names": ("background", *(f"label{index}" for index in range(1, num_classes))),
        "channel_names": tuple(f"channel{index}" for index in range(num_channels)),
    }
    return TargetNetwork(tensors=tensors, **(described | changes))
