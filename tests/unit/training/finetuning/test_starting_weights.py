"""What a run began with is kept beside it, and nothing else is taken for it."""

import pytest
import torch

from stu_pipeline.errors import ModelError
from stu_pipeline.training.finetuning.starting_weights import (
    copy_weights,
    read_starting_weights,
    write_starting_weights,
)
from stu_pipeline.training.run.start import STARTING_WEIGHTS
from tests.unit.training.finetuning.small_start import build_network

NAMES = ["conv_blocks_context.0.0.conv1.weight", "decoder.seg_layers.4.bias"]


@pytest.fixture
def begun(tmp_path):
    network = build_network()
    return network, write_starting_weights(tmp_path, copy_weights(network, NAMES))


def test_starting_weights_come_back_to_the_last_bit_whatever_the_network_is_by_then(begun, tmp_path):
    network, digest = begun
    other = build_network(seed=5)
    found = read_starting_weights(tmp_path, digest, other, NAMES)
    wanted = dict(network.named_parameters())
    assert list(found) == NAMES and all(torch.equal(found[name], wanted[name]) for name in NAMES)
    assert not torch.equal(found[NAMES[0]], dict(other.named_parameters())[NAMES[0]])


def test_the_layout_of_the_network_is_kept(tmp_path):
    network = build_network().to(memory_format=torch.channels_last)
    digest = write_starting_weights(tmp_path, copy_weights(network, NAMES))
    found = read_starting_weights(tmp_path, digest, network, NAMES)
    weight = dict(network.named_parameters())[NAMES[0]]
    assert found[NAMES[0]].stride() == weight.stride() and torch.equal(found[NAMES[0]], weight)


def test_a_missing_file_is_named_and_a_way_out(begun, tmp_path):
    network, digest = begun
    (tmp_path / STARTING_WEIGHTS).unlink()
    with pytest.raises(ModelError, match=f"'{STARTING_WEIGHTS}' is missing") as caught:
        read_starting_weights(tmp_path, digest, network, NAMES)
    assert "--force" in caught.value.hint


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_a_file_that_was_changed_is_refused(begun, tmp_path, damage):
    network, digest = begun
    path = tmp_path / STARTING_WEIGHTS
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match="not the file that this run wrote"):
        read_starting_weights(tmp_path, digest, network, NAMES)


def test_a_checkpoint_that_names_no_file_does_not_take_one(begun, tmp_path):
    with pytest.raises(ModelError, match="not the file"):
        read_starting_weights(tmp_path, None, begun[0], NAMES)


def test_a_file_of_another_network_is_refused(begun, tmp_path):
    network, digest = begun
    with pytest.raises(ModelError, match="does not hold the weights of this network"):
        read_starting_weights(tmp_path, digest, network, ["conv_blocks_context.1.0.conv1.weight"])
    with pytest.raises(ModelError, match="does not hold the weights of this network"):
        read_starting_weights(tmp_path, digest, build_network(num_classes=7), NAMES)
