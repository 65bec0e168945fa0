"""Weights go into another network completely, or are refused; what changes keeps its answer."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from stu_pipeline.errors import ModelError
from stu_pipeline.transfer.loading.adapt import adapt_weights
from stu_pipeline.transfer.loading.channels import STEM_KERNELS
from stu_pipeline.transfer.loading.mappings import ChannelMapping, HeadMapping
from tests.unit.transfer.loading.loading_networks import FEATURES, build_network, list_strides, make_source, make_target

NAMES = ("background", "liver", "spleen")


def answer(network, tensors, image):
    """Load tensors strictly and return the logits of an image."""
    network.load_state_dict(tensors, strict=True)
    with torch.no_grad():
        return network(image)


def make_image(*shape):
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(5))


def test_equal_networks_are_loaded_bit_exact():
    trained, fresh = build_network(), build_network(seed=1)
    source = make_source(trained, label_names=NAMES)
    adapted = adapt_weights(source, make_target(fresh, label_names=NAMES))
    assert list(adapted.tensors) == list(fresh.state_dict())
    assert all(torch.equal(adapted.tensors[key], source.tensors[key]) for key in source.tensors)
    assert set(adapted.origins.values()) == {"loaded"}
    assert adapted.table.measure_share("loaded") == pytest.approx(1.0)


def test_weights_of_another_number_type_take_that_of_the_network():
    trained, fresh = build_network(), build_network(seed=1)
    source = make_source(trained.half(), label_names=NAMES)
    adapted = adapt_weights(source, make_target(fresh, label_names=NAMES))
    assert {tensor.dtype for tensor in adapted.tensors.values()} == {torch.float32}
    assert torch.equal(adapted.tensors["decoder.seg_layers.4.bias"].half(), source.tensors["decoder.seg_layers.4.bias"])


def test_neither_side_is_changed_and_nothing_is_shared():
    trained, fresh = build_network(), build_network(channels=2, seed=1)
    source, target = make_source(trained, label_names=NAMES), make_target(fresh, label_names=NAMES)
    before = [{key: tensor.clone() for key, tensor in tensors.items()} for tensors in (source.tensors, target.tensors)]
    for tensor in adapt_weights(source, target).tensors.values():
        tensor.fill_(7)
    for tensors, kept in zip((source.tensors, target.tensors), before, strict=True):
        assert all(torch.equal(tensors[key], kept[key]) for key in kept)


@pytest.mark.parametrize("num_channels", [2, 3, 4])
def test_repeated_channels_are_answered_as_one_was(num_channels):
    trained, fresh = build_network(), build_network(channels=num_channels, seed=1)
    adapted = adapt_weights(make_source(trained, label_names=NAMES), make_target(fresh, label_names=NAMES))
    image = make_image(1, 8, 8, 8)
    expected = answer(trained, trained.state_dict(), image)
    torch.testing.assert_close(
        answer(fresh, adapted.tensors, image.expand(-1, num_channels, -1, -1, -1)), expected, atol=1e-5, rtol=1e-5
    )
    assert [key for key, origin in adapted.origins.items() if origin == "adapted"] == list(STEM_KERNELS)


def test_repeating_the_shortcut_without_scaling_would_change_the_answer():
    trained, fresh = build_network(), build_network(channels=4, seed=1)
    tensors = adapt_weights(make_source(trained, label_names=NAMES), make_target(fresh, label_names=NAMES)).tensors
    image = make_image(1, 8, 8, 8)
    expected = answer(trained, trained.state_dict(), image)
    unscaled = tensors | {STEM_KERNELS[1]: tensors[STEM_KERNELS[1]] * 4}
    difference = answer(fresh, unscaled, image.expand(-1, 4, -1, -1, -1)) - expected
    assert float(difference.norm() / expected.norm()) > 0.3


@pytest.mark.parametrize(
    ("source_names", "target_names"),
    [
        (None, ("a",)),
        (None, ("a", "b")),
        (None, ("a", "b", "c", "d", "e")),
        (("T1", "T2", "FLAIR"), ("flair",)),
        (("T1", "T2", "FLAIR"), ("FLAIR", "CT")),
        (("T1", "T2", "FLAIR"), ("FLAIR", "T2", "T1")),
        (("T1", "T2", "FLAIR"), ("CT", "PET", "FLAIR", "T1")),
    ],
)
def test_equal_images_in_all_channels_are_answered_as_by_the_source(source_names, target_names):
    trained, fresh = build_network(channels=3), build_network(channels=len(target_names), seed=1)
    source = make_source(trained, label_names=NAMES, channel_names=source_names)
    adapted = adapt_weights(source, make_target(fresh, label_names=NAMES, channel_names=target_names))
    image = make_image(1, 8, 8, 8)
    expected = answer(trained, trained.state_dict(), image.expand(-1, 3, -1, -1, -1))
    found = answer(fresh, adapted.tensors, image.expand(-1, len(target_names), -1, -1, -1))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_channels_in_another_order_are_sorted_by_name():
    trained, fresh = build_network(channels=2), build_network(channels=2, seed=1)
    source = make_source(trained, label_names=NAMES, channel_names=("CT", "PET"))
    adapted = adapt_weights(source, make_target(fresh, label_names=NAMES, channel_names=("pet", "ct")))
    image = make_image(2, 8, 8, 8)
    expected = answer(trained, trained.state_dict(), image)
    torch.testing.assert_close(answer(fresh, adapted.tensors, image.flip(1)), expected, atol=1e-5, rtol=1e-5)


def test_as_many_channels_without_names_keep_their_order():
    trained, fresh = build_network(channels=2), build_network(channels=2, seed=1)
    adapted = adapt_weights(make_source(trained, label_names=NAMES), make_target(fresh, label_names=NAMES))
    assert set(adapted.origins.values()) == {"loaded"}


def test_a_declared_channel_is_taken():
    trained, fresh = build_network(channels=2), build_network(channels=2, seed=1)
    mapping = ChannelMapping(sources={"T1": "1", "T2": "0"})
    target = make_target(fresh, label_names=NAMES, channel_names=("T1", "T2"))
    adapted = adapt_weights(make_source(trained, label_names=NAMES), target, channels=mapping)
    stem = trained.state_dict()[STEM_KERNELS[0]]
    assert torch.equal(adapted.tensors[STEM_KERNELS[0]], stem.flip(1))


def test_a_channel_mapping_of_unknown_names_lists_all_of_them():
    trained, fresh = build_network(channels=2), build_network(channels=2, seed=1)
    source = make_source(trained, label_names=NAMES, channel_names=("CT", "PET"))
    target = make_target(fresh, label_names=NAMES, channel_names=("CT", "PET"))
    mapping = ChannelMapping(sources={"MR": "CT", "PET": "PETT"})
    with pytest.raises(ModelError, match="this dataset has no channel 'MR'") as caught:
        adapt_weights(source, target, channels=mapping)
    assert "the weights have no channel 'PETT', their channels: CT, PET (nearest: 'PET')" in caught.value.details[0]


def test_label_channels_of_a_cascade_start_anew():
    trained, fresh = build_network(), build_network(channels=3, seed=1)
    target = make_target(fresh, label_names=NAMES, channel_names=("CT",))
    adapted = adapt_weights(make_source(trained, label_names=NAMES), target)
    for key in STEM_KERNELS:
        assert torch.equal(adapted.tensors[key][:, :1], trained.state_dict()[key])
        assert torch.equal(adapted.tensors[key][:, 1:], fresh.state_dict()[key][:, 1:])
    assert "2 label channels of the stage before start anew" in adapted.table.rows[0].how


def test_label_channels_are_kept_where_the_labels_are_the_same():
    trained, fresh = build_network(channels=3), build_network(channels=3, seed=1)
    source = make_source(trained, label_names=NAMES, channel_names=("CT",))
    same = adapt_weights(source, make_target(fresh, label_names=NAMES, channel_names=("CT",)))
    assert set(same.origins.values()) == {"loaded"}
    other = make_target(fresh, label_names=("background", "liver", "kidney"), channel_names=("CT",))
    stem = adapt_weights(source, other).tensors[STEM_KERNELS[0]]
    assert torch.equal(stem[:, 1:], fresh.state_dict()[STEM_KERNELS[0]][:, 1:])


def test_label_channels_stay_behind_however_many_images_there_are():
    trained, fresh = build_network(channels=3), build_network(channels=4, seed=1)
    source = make_source(trained, label_names=NAMES, channel_names=("CT",))
    stem = adapt_weights(source, make_target(fresh, label_names=NAMES, channel_names=("CT", "PET"))).tensors
    old = trained.state_dict()[STEM_KERNELS[0]]
    torch.testing.assert_close(stem[STEM_KERNELS[0]], torch.cat([old[:, :1] / 2, old[:, :1] / 2, old[:, 1:]], dim=1))


def wrap_around(network):
    """Let convolutions see no edge along z, so that a volume that is constant along z stays so."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d | torch.nn.Conv2d) and module.padding != (0,) * len(module.padding):
            module.padding_mode = "circular"
            module._reversed_padding_repeated_twice = [1] * (2 * len(module.padding))
    return network


def test_a_2d_network_answers_as_the_3d_one_did_to_a_volume_constant_along_z():
    trained = wrap_around(build_network())
    fresh = wrap_around(build_network(num_axes=2, seed=1))
    adapted = adapt_weights(make_source(trained, label_names=NAMES), make_target(fresh, label_names=NAMES))
    image = make_image(1, 8, 8)
    volume = image[:, :, None].expand(-1, -1, 4, -1, -1)
    expected = answer(trained, trained.state_dict(), volume)
    torch.testing.assert_close(expected[:, :, 0], expected[:, :, 3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answer(fresh, adapted.tensors, image), expected[:, :, 1], atol=1e-4, rtol=1e-4)
    assert "3D kernels summed over z" in adapted.table.rows[1].how


def test_a_3d_network_answers_as_the_2d_one_did_even_at_the_ends_of_the_volume():
    trained, fresh = build_network(num_axes=2), build_network(seed=1)
    adapted = adapt_weights(make_source(trained, label_names=NAMES), make_target(fresh, label_names=NAMES))
    image = make_image(1, 8, 8)
    expected = answer(trained, trained.state_dict(), image)
    found = answer(fresh, adapted.tensors, image[:, :, None].expand(-1, -1, 4, -1, -1))
    for plane in range(4):
        torch.testing.assert_close(found[:, :, plane], expected, atol=1e-4, rtol=1e-4)


def test_kernels_of_one_plane_count_as_loaded_in_other_dimensions():
    trained, fresh = build_network(), build_network(num_axes=2, seed=1)
    adapted = adapt_weights(make_source(trained, label_names=NAMES), make_target(fresh, label_names=NAMES))
    assert adapted.origins["upsample_layers.0.conv.weight"] == "loaded"
    assert adapted.origins["decoder.seg_layers.4.weight"] == "loaded"
    assert adapted.origins["conv_blocks_context.1.0.conv1.weight"] == "adapted"


def test_heads_are_reused_by_name_and_the_others_start_anew():
    trained, fresh = build_network(), build_network(classes=4, seed=1)
    target = make_target(fresh, label_names=("background", "kidney", "Spleen", "liver"))
    adapted = adapt_weights(make_source(trained, label_names=NAMES), target)
    for level in range(5):
        for name in ("weight", "bias"):
            key = f"decoder.seg_layers.{level}.{name}"
            found, old, new = adapted.tensors[key], trained.state_dict()[key], fresh.state_dict()[key]
            assert torch.equal(found, torch.stack([old[0], new[1], old[2], old[1]]))
            assert adapted.origins[key] == "adapted"
    rows = [(row.origin, row.how) for row in adapted.table.rows if row.part == "heads"]
    assert rows == [("loaded", "3 of 4 outputs"), ("initialised", "1 of 4 outputs")]
    assert adapted.table.list_fresh_labels() == ("kidney",)


def test_heads_start_anew_where_the_names_of_the_weights_are_not_known():
    trained, fresh = build_network(), build_network(seed=1)
    adapted = adapt_weights(make_source(trained), make_target(fresh, label_names=NAMES))
    assert torch.equal(
        adapted.tensors["decoder.seg_layers.4.weight"], fresh.state_dict()["decoder.seg_layers.4.weight"]
    )
    assert adapted.origins["decoder.seg_layers.4.weight"] == "initialised"
    assert any("the label names of the weights are not known" in line for line in adapted.table.write_lines())


def test_heads_are_taken_in_order_when_the_user_says_so():
    trained, fresh = build_network(), build_network(seed=1)
    target = make_target(fresh, label_names=NAMES)
    adapted = adapt_weights(make_source(trained), target, heads=HeadMapping(by_index=True))
    assert set(adapted.origins.values()) == {"loaded"}
    with pytest.raises(ModelError, match="have 3 outputs, this network 4"):
        adapt_weights(make_source(trained), make_target(build_network(classes=4)), heads=HeadMapping(by_index=True))


def test_another_scale_is_refused_with_both_scales():
    trained, fresh = build_network(), build_network(features=(32, 64, 8, 8, 8, 8), seed=1)
    with pytest.raises(ModelError, match=r"holds scale S, this plan is of scale B: \d+ of 130 tensors") as caught:
        adapt_weights(make_source(trained, label_names=NAMES), make_target(fresh, label_names=NAMES))
    assert caught.value.hint == "plan with --scale S, or take weights of scale B"


def test_a_network_that_is_no_stunet_is_refused():
    source = make_source(build_network(), label_names=NAMES)
    target = replace(make_target(build_network()), tensors={"encoder.stages.0.weight": torch.zeros(1)})
    with pytest.raises(ModelError, match="no STU-Net"):
        adapt_weights(source, target)


def test_names_that_are_not_of_the_network_are_refused():
    network = build_network()
    with pytest.raises(ModelError, match=r"1 input channels and 3 outputs, dataset\.json describes 1 and 2"):
        adapt_weights(make_source(network), make_target(network, label_names=NAMES[:2]))


def test_the_table_counts_every_parameter_once():
    trained, fresh = build_network(), build_network(channels=2, classes=5, seed=1)
    source = make_source(trained, label_names=NAMES, strides=tuple(map(tuple, list_strides())))
    table = adapt_weights(source, make_target(fresh, strides=list_strides())).table
    total = sum(parameter.numel() for parameter in fresh.parameters())
    assert sum(row.num_parameters for row in table.rows) == total
    assert sum(row.share for row in table.rows) == pytest.approx(1.0)
    assert sum(row.num_tensors for row in table.rows if row.part != "heads") == 130 - 10
    assert [row.part for row in table.rows][:3] == ["stem", "encoder stage 0", "encoder stage 1"]
    assert table.rows[0].num_parameters == 2 * FEATURES[0] * (27 + 1) + 2 * FEATURES[0]
    assert table.notes == ()
    assert json.loads(json.dumps(table.to_json()))["heads"][0]["target"] == table.heads[0].target


def test_other_and_unknown_strides_are_told():
    trained, fresh = build_network(), build_network(seed=1)
    target = make_target(fresh, label_names=NAMES, strides=list_strides())
    unknown = adapt_weights(make_source(trained, label_names=NAMES), target).table
    assert "strides that 'small.model' was trained with are not known" in unknown.notes[0]
    other = ((1, 1, 1), *[(2, 2, 2)] * 4, (1, 1, 2))
    table = adapt_weights(make_source(trained, label_names=NAMES, strides=other), target).table
    assert "1x1x1 2x2x2 2x2x2 2x2x2 2x2x2 1x1x2" in table.write_lines()[-1]
