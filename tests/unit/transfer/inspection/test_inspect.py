"""An inspection says what is in a file, also where it cannot be used, and never fails over what it can report."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.transfer.files.description import write_description
from stu_pipeline.transfer.files.reading import read_weight_file
from stu_pipeline.transfer.inspection.inspect import inspect_weights
from stu_pipeline.transfer.inspection.layers import measure_layers
from stu_pipeline.transfer.inspection.tables import (
    build_fact_table,
    build_layer_table,
    build_part_table,
    write_verdict,
)
from stu_pipeline.transfer.weight_file import WeightFacts
from tests.published_files import (
    make_published_state,
    shrink_scale,
    write_fork_checkpoint,
    write_published_model,
    write_published_sidecar,
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Let files of scale S be small."""
    shrink_scale(monkeypatch)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "small_ep4k.model"


def facts_of(inspection):
    return dict(build_fact_table(inspection).rows)


def test_a_released_file_is_described(path):
    write_published_model(path)
    found = inspect_weights(path)
    assert found.is_usable and found.network == ("S", 1, 105)
    assert found.identity == read_weight_file(path).identity
    assert found.optimizer_bytes == found.tensor_bytes == 4 * found.num_parameters
    rows = facts_of(found)
    assert rows["network"] == "STU-Net S, 3D, 1 input channel, 105 outputs"
    assert rows["strides"] == "1x1x1 2x2x2 2x2x2 2x2x2 2x2x2 1x1x2"
    assert rows["labels"].startswith("105 with background: background, adrenal_gland_left")
    assert rows["side-car"] == "small_ep4k.model.pkl" and rows["epochs"] == "4000"
    verdict = write_verdict(found)
    assert verdict[-1] == "can be used" and verdict[0].startswith("momentum included: 4")


def test_what_is_not_known_is_said(path):
    write_published_model(path, momentum=False, sidecar=False)
    found = inspect_weights(path)
    rows = facts_of(found)
    assert {rows[name] for name in ("strides", "labels", "spacing", "normalisation", "trained by")} == {"not known"}
    assert rows["optimizer state"] == "none" and rows["side-car"] == "none"
    assert [line.partition(" are not known")[0] for line in write_verdict(found)[:2]] == ["strides", "label names"]


def test_the_wrong_side_car_is_reported_and_not_believed(path):
    write_published_model(path, num_classes=3, sidecar=False)
    write_published_sidecar(path.with_name("other.pkl"), scale="B", num_classes=105)
    found = inspect_weights(path, sidecar=path.with_name("other.pkl"))
    assert not found.is_usable and found.facts == WeightFacts(num_epochs=4000)
    assert ["of scale B" in found.problems[0], "105 outputs" in found.problems[1]] == [True, True]


def test_a_width_of_no_scale_is_reported(path):
    torch.save({"state_dict": make_published_state("B", tiny=True) | {"extra": torch.zeros(1)}}, path)
    found = inspect_weights(path)
    assert found.network is None and found.identity is None
    assert "no STU-Net: key 'extra'" in found.problems[0]
    assert write_verdict(found)[0].startswith("cannot be used: no STU-Net")


def test_tensors_of_wrong_shape_are_reported(path):
    def spoil(state):
        state["seg_outputs.2.weight"] = torch.zeros(7, 1, 1, 1, 1)

    write_published_model(path, num_classes=3, sidecar=False, change_state=spoil)
    found = inspect_weights(path)
    assert found.network is None
    assert "'decoder.seg_layers.2.weight' has shape [7, 1, 1, 1, 1]" in found.problems[1]
    assert len(found.layers) == len(measure_layers(make_published_state("S", num_classes=3)))


def test_values_that_are_not_finite_are_reported_by_tensor(path):
    def spoil(state):
        state["conv_blocks_context.5.0.conv1.weight"].view(-1)[:3] = float("nan")
        state["seg_outputs.0.bias"][1] = float("-inf")

    write_published_model(path, change_state=spoil)
    found = inspect_weights(path)
    assert [(tensor.name.split(".")[0], tensor.num_wrong) for tensor in found.broken] == [
        ("conv_blocks_context", 3), ("seg_outputs", 1),
    ]  # fmt: skip
    assert not found.is_usable and "3 values that are NaN or infinite" in found.problems[0]
    assert all(layer.std == layer.std for layer in found.layers)


def test_other_networks_are_reported(path):
    torch.save({"network_weights": {"encoder.stages.0.0.convs.0.conv.weight": torch.ones(2, 1, 3, 3, 3)}}, path)
    found = inspect_weights(path)
    assert "PlainConvUNet" in found.problems[0]
    assert [layer.part for layer in found.layers] == ["encoder.stages.0.0.convs.0.conv"]


def test_settings_that_cannot_be_read_are_reported(path):
    write_fork_checkpoint(path, init_args={"plans": {"configurations": {}}, "configuration": "3d_fullres"})
    found = inspect_weights(path)
    assert found.network is not None and found.facts == WeightFacts()
    assert "holds settings that cannot be read" in found.problems[0]


def test_a_json_of_other_tensors_is_reported(path, tmp_path):
    write_published_model(path)
    target = tmp_path / "a.safetensors"
    save_file(read_weight_file(path).tensors, target)
    sidecar = write_description(target, read_weight_file(path))
    assert inspect_weights(target).is_usable
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"identity": "0" * 64}))
    assert inspect_weights(target).problems == ("the JSON beside it describes other weights",)
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"sha256": "0" * 64}))
    assert "its hash differs" in inspect_weights(target).problems[0]


def test_what_cannot_be_read_at_all_is_refused(path):
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ModelError, match="damaged"):
        inspect_weights(path)


def make_network():
    torch.manual_seed(0)
    network = STUNet(1, 3, [[1, 1, 1]] * 6, [4, 8, 16, 32, 64, 64], 1)
    network.apply(network.initialize)
    return network


def test_a_fresh_network_is_seen_as_one(path):
    torch.save({"state_dict": make_network().state_dict()}, path)
    found = inspect_weights(path)
    assert found.looks_untrained
    assert any(line.startswith("looks untrained") for line in write_verdict(found))
    large = [layer.ratio for layer in found.layers if layer.kind == "convolution" and math.prod(layer.shape) > 5000]
    assert len(large) > 10 and all(0.9 < ratio < 1.1 for ratio in large)


def test_one_step_of_training_is_enough_to_look_trained(path):
    network = make_network()
    network(torch.randn(1, 1, 2, 2, 2)).pow(2).mean().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.sub_(0.01 * (parameter.grad if parameter.grad is not None else 0))
    torch.save({"state_dict": network.state_dict()}, path)
    assert not inspect_weights(path).looks_untrained


def test_dead_filters_are_counted():
    weight = torch.randn(8, 4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    weight[5] *= 1e-5
    norm = torch.ones(8)
    norm[7] = 1e-6
    conv, scale = measure_layers({"a.conv1.weight": weight, "a.norm1.weight": norm, "a.norm1.bias": norm - 1})
    assert (conv.num_filters, conv.num_dead, conv.kind) == (8, 2, "convolution")
    assert (scale.num_dead, scale.kind, scale.is_fresh) == (1, "normalisation", False)


def test_the_tables_hold_every_part_and_every_layer(path):
    write_published_model(path)
    found = inspect_weights(path)
    parts = build_part_table(found)
    assert [row[0] for row in parts.rows] == [
        *(f"encoder stage {stage}" for stage in range(6)), "upsampling",
        *(f"decoder level {level}" for level in range(5)), "heads",
    ]  # fmt: skip
    assert sum(int(row[1]) for row in parts.rows) == 6 * 3 + 5 + 5 * 3 + 5
    assert len(build_layer_table(found).rows) == len(found.layers) == 43 + 22


def test_empty_and_scalar_tensors_are_no_layers():
    assert measure_layers({"a.weight": torch.zeros(0, 1, 3, 3, 3), "b.weight": torch.tensor(1.0)}) == ()
