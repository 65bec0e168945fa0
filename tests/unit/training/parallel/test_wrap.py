"""Ranks that train together come to what one process comes to with the same batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stu_pipeline.errors import ModelError
from stu_pipeline.log import ignore_events
from stu_pipeline.training.parallel import sharding
from stu_pipeline.training.parallel.launch import run_ranks
from stu_pipeline.training.parallel.ranks import Ranks
from stu_pipeline.training.parallel.wrap import (
    find_idle_parameters,
    freeze,
    skip_gradient_exchange,
    unwrap_network,
    wrap_network,
)
from tests.unit.training.parallel import rank_jobs
from tests.unit.training.parallel.tiny_training import LEVEL_WEIGHTS, build_network, build_optimizer, train_alone

IDLE = ["decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"]


def assert_same(found, expected, *, rtol=1e-4, atol=1e-6):
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=atol, err_msg=str(name))


def momentum_of(state):
    return {index: values["momentum_buffer"] for index, values in state["state"].items()}


def train_together(*configs):
    return run_ranks(rank_jobs.train_together, configs, num_ranks=2, device_type="cpu", listen=ignore_events)


@pytest.mark.integration
def test_two_ranks_take_the_steps_of_one_process_whole_and_in_parts():
    alone = train_alone()
    for together in train_together({"how": "ddp", "micro_batch": 2}, {"how": "ddp", "micro_batch": 1}):
        assert together["norm"] == pytest.approx(alone["norm"], rel=1e-4)
        assert_same(together["gradients"], alone["gradients"])
        assert_same(together["weights"], alone["weights"])
        assert_same(momentum_of(together["optimizer"]), momentum_of(alone["optimizer"]))
        assert together["idle"] == IDLE and not set(IDLE) & set(together["gradients"])


@pytest.mark.integration
def test_two_ranks_that_share_the_weights_take_the_steps_of_one_process():
    alone, [together] = train_alone(), train_together({"how": "sharded", "checkpointing": True})
    assert together["norm"] == pytest.approx(alone["norm"], rel=1e-4)
    assert_same(together["weights"], alone["weights"])
    assert_same(momentum_of(together["optimizer"]), momentum_of(alone["optimizer"]))
    # Each rank holds about half of the numbers, and what was gathered can be dealt out again.
    num_own, num_ranks = together["shares"]
    num_all = sum(value.size for value in together["weights"].values())
    assert num_own <= 0.6 * num_all and num_ranks == 2
    assert_same(together["reloaded"]["weights"], together["weights"], rtol=0, atol=0)
    assert_same(momentum_of(together["reloaded"]["optimizer"]), momentum_of(together["optimizer"]), rtol=0, atol=0)
    assert together["reloaded"]["optimizer"]["param_groups"] == together["optimizer"]["param_groups"]


def test_one_process_is_not_wrapped():
    network = build_network()
    assert wrap_network(network, Ranks(), torch.device("cpu"), idle=IDLE) is network
    assert sharding.shard_network(network, Ranks(), torch.device("cpu")) is network
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert unwrap_network(network) is network and not sharding.is_sharded(network)
    with skip_gradient_exchange(network):
        network(torch.randn(1, 1, 32, 32))[0].sum().backward()
    assert network.decoder.seg_layers[4].weight.grad is not None


@pytest.mark.parametrize(
    ("weights", "idle_heads"),
    [(LEVEL_WEIGHTS, [0]), (None, [0, 1, 2, 3]), ((0.6, 0.4), [0, 1, 2]), ((1, 1, 1, 1, 1), [])],
)
def test_heads_without_a_part_in_the_loss_are_found(weights, idle_heads):
    expected = [f"decoder.seg_layers.{head}.{kind}" for head in idle_heads for kind in ("weight", "bias")]
    assert find_idle_parameters(build_network(), weights) == expected


def test_a_network_without_heads_has_nothing_idle():
    assert find_idle_parameters(nn.Linear(2, 2), (1.0, 0.0)) == []


def test_an_unknown_parameter_cannot_be_frozen():
    with pytest.raises(KeyError):
        freeze(nn.Linear(2, 2), ["weigth"])


@pytest.mark.integration
def test_a_compiled_network_is_unwrapped():
    network = nn.Linear(2, 2)
    assert unwrap_network(torch.compile(network)) is network


def test_a_wrong_gradient_would_be_noticed():
    alone = train_alone()
    with pytest.raises(AssertionError):
        assert_same(alone["gradients"], {name: value * 1.001 for name, value in alone["gradients"].items()})


def test_a_fused_step_on_own_parts_is_the_optimizers_step():
    networks = [build_network() for _ in range(2)]
    optimizers = [build_optimizer(network) for network in networks]
    for network in networks:
        network(torch.ones(1, 1, 32, 32))[0].square().mean().backward()
    optimizers[0].step()
    sharding.move_weights(optimizers[1])
    assert_same(networks[1].state_dict(), networks[0].state_dict(), rtol=0, atol=0)
    before = {name: value.clone() for name, value in networks[1].state_dict().items()}
    optimizers[1].found_inf, optimizers[1].grad_scale = torch.ones(()), None
    sharding.move_weights(optimizers[1])
    assert_same(networks[1].state_dict(), before, rtol=0, atol=0)


def test_state_for_another_network_is_refused():
    network, weights = build_network(), build_network().state_dict()
    with pytest.raises(ModelError, match="missing"):
        sharding.load_weights(network, {}, Ranks())
    with pytest.raises(ModelError, match="unknown"):
        sharding.load_weights(network, {**weights, "more": torch.ones(1)}, Ranks())
    with pytest.raises(ModelError, match="shape"):
        sharding.load_weights(network, {**weights, IDLE[1]: torch.ones(7)}, Ranks())


def test_idle_heads_of_a_compiled_network_are_frozen_too():
    network = build_network()
    idle = find_idle_parameters(network, LEVEL_WEIGHTS)
    freeze(torch.compile(network, backend="eager"), idle)
    assert [name for name, weight in network.named_parameters() if not weight.requires_grad] == idle
