"""Averaged weights: a running mean that forgets young weights faster, and survives a checkpoint."""

import pytest
import torch
from torch import nn

from stu_pipeline.training.loop.ema import WeightAverage
from tests.device_waits import RefuseWaiting


def make_network(value):
    network = nn.Linear(2, 1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(value)
    return network


def set_weights(network, value):
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(value)


def average_of(decay, values, *, start=0.0):
    """Compute it by hand."""
    mean = start
    for index, value in enumerate(values, 1):
        kept = min(decay, (1 + index) / (10 + index))
        mean = kept * mean + (1 - kept) * value
    return mean


@pytest.mark.parametrize("decay", [0.1, 0.9, 0.999])
def test_the_average_is_the_one_by_hand(decay):
    network = make_network(0.0)
    average, values = WeightAverage(network, decay), [1.0, -2.0, 4.0, 0.5, 3.0]
    for value in values:
        set_weights(network, value)
        average.update(network)
    assert average.network.weight.flatten().tolist() == pytest.approx([average_of(decay, values)] * 2)
    assert float(average.network.bias) == pytest.approx(average_of(decay, values))


def test_weights_that_stay_are_their_own_average():
    network = make_network(3.0)
    average = WeightAverage(network, 0.99)
    for _ in range(50):
        average.update(network)
    assert average.network.weight.tolist() == [[3.0, 3.0]]


def test_the_training_is_not_touched_and_the_average_is_not_trained():
    network = make_network(1.0)
    average = WeightAverage(network, 0.9)
    set_weights(network, 2.0)
    average.update(network)
    assert network.weight.tolist() == [[2.0, 2.0]] and network.weight.requires_grad
    assert not any(weight.requires_grad for weight in average.network.parameters())


def test_an_average_that_was_saved_goes_on_as_if_it_had_not_stopped():
    network = make_network(0.0)
    straight, resumed = WeightAverage(network, 0.95), WeightAverage(network, 0.95)
    for value in (1.0, 2.0):
        set_weights(network, value)
        straight.update(network)
        resumed.update(network)
    other = WeightAverage(make_network(7.0), 0.95)
    other.load_state_dict(resumed.state_dict())
    set_weights(network, 5.0)
    straight.update(network)
    other.update(network)
    assert torch.equal(straight.network.weight, other.network.weight)


def test_its_state_can_be_read_back_without_running_code(tmp_path):
    average = WeightAverage(make_network(1.0), 0.9)
    average.update(make_network(2.0))
    torch.save(average.state_dict(), tmp_path / "average.pth")
    other = WeightAverage(make_network(0.0), 0.9)
    other.load_state_dict(torch.load(tmp_path / "average.pth", weights_only=True))
    assert torch.equal(other.network.weight, average.network.weight)


def test_an_update_does_not_wait_for_the_device():
    network = make_network(1.0)
    average = WeightAverage(network, 0.9)
    with RefuseWaiting():
        average.update(network)
