"""nnU-Net builds, switches, saves and fine-tunes STUNet by its dotted name and the plan's plain JSON."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from stu_pipeline.networks.stunet import STUNet

CLASS_NAME = "stu_pipeline.networks.stunet.STUNet"
STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2], [1, 1, 1], [1, 1, 1]]
PATCH = (4, 16, 24)


def read_arguments(**changes: object) -> dict[str, object]:
    arguments = {
        "strides": STRIDES,
        "features_per_stage": [4, 8, 8, 12, 12, 12],
        "n_blocks_per_stage": [1, 1, 1, 1, 1, 1],
        "conv_op": "3d",
    }
    return json.loads(json.dumps(arguments | changes))


def build_by_nnunet(num_classes: int = 3, **options: object) -> STUNet:
    return get_network_from_plans(CLASS_NAME, read_arguments(), [], 2, num_classes, **options)


@pytest.mark.parametrize("deep_supervision", [None, False, True])
def test_nnunet_builds_the_network_from_plain_json(deep_supervision: bool | None) -> None:
    network = build_by_nnunet(deep_supervision=deep_supervision)

    outputs = network(torch.randn(1, 2, *PATCH))

    assert type(network) is STUNet
    assert network.decoder.deep_supervision is bool(deep_supervision)
    assert isinstance(outputs, list) is bool(deep_supervision)


def test_nnunet_builds_the_2d_network() -> None:
    arguments = read_arguments(strides=[stride[1:] for stride in STRIDES], conv_op="2d")
    network = get_network_from_plans(CLASS_NAME, arguments, [], 1, 2, deep_supervision=False)

    assert network(torch.randn(2, 1, 16, 24)).shape == (2, 2, 16, 24)


def test_nnunet_initialises_every_convolution() -> None:
    network = build_by_nnunet()

    biases = [weight for key, weight in network.named_parameters() if ".conv" in key and key.endswith("bias")]
    assert biases
    assert all(torch.count_nonzero(bias) == 0 for bias in biases)


def test_a_state_dict_survives_saving_between_both_deep_supervision_settings(tmp_path: Path) -> None:
    trained = build_by_nnunet(deep_supervision=True).eval()
    torch.save({"network_weights": trained.state_dict()}, tmp_path / "checkpoint.pth")
    loaded = build_by_nnunet(deep_supervision=False, allow_init=False).eval()
    image = torch.randn(1, 2, *PATCH)

    loaded.load_state_dict(torch.load(tmp_path / "checkpoint.pth", weights_only=True)["network_weights"])

    with torch.no_grad():
        assert torch.equal(loaded(image), trained(image)[0])


def test_the_trainers_own_switch_changes_the_output() -> None:
    network = build_by_nnunet(deep_supervision=True)
    trainer = SimpleNamespace(is_ddp=False, network=network)
    image = torch.randn(1, 2, *PATCH)

    nnUNetTrainer.set_deep_supervision_enabled(trainer, False)
    assert isinstance(network(image), torch.Tensor)
    nnUNetTrainer.set_deep_supervision_enabled(trainer, True)
    assert len(network(image)) == 5


def test_outputs_have_the_scales_that_the_trainer_makes_targets_for() -> None:
    trainer = SimpleNamespace(
        enable_deep_supervision=True, configuration_manager=SimpleNamespace(pool_op_kernel_sizes=STRIDES)
    )
    scales = nnUNetTrainer._get_deep_supervision_scales(trainer)
    outputs = build_by_nnunet(deep_supervision=True)(torch.randn(1, 2, *PATCH))

    sizes = [[round(voxels * part) for voxels, part in zip(PATCH, scale, strict=True)] for scale in scales]
    assert sizes == [list(logits.shape[2:]) for logits in outputs]


def test_stock_fine_tuning_takes_the_body_and_leaves_the_heads(tmp_path: Path) -> None:
    source, target = build_by_nnunet(num_classes=9), build_by_nnunet(num_classes=3)
    heads_before = {key: weight.clone() for key, weight in target.state_dict().items() if ".seg_layers." in key}
    torch.save({"network_weights": source.state_dict()}, tmp_path / "checkpoint.pth")

    load_pretrained_weights(target, str(tmp_path / "checkpoint.pth"))

    for key, weight in target.state_dict().items():
        expected = heads_before[key] if key in heads_before else source.state_dict()[key]
        assert torch.equal(weight, expected), key


def test_nnunet_counts_coarse_heads_only_with_deep_supervision_as_we_do() -> None:
    sizes = []
    for deep_supervision in (False, True):
        stock = PlainConvUNet(
            1,
            6,
            [4, 8, 8, 12, 12, 12],
            torch.nn.Conv3d,
            3,
            STRIDES,
            1,
            2,
            1,
            norm_op=torch.nn.InstanceNorm3d,
            deep_supervision=deep_supervision,
        )
        ours = build_by_nnunet(num_classes=2, deep_supervision=deep_supervision)
        sizes.append([int(network.compute_conv_feature_map_size(PATCH)) for network in (stock, ours)])

    differences = [on - off for off, on in zip(*sizes, strict=True)]
    assert differences[0] == differences[1] > 0
