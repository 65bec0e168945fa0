"""A step in micro-batches: the gradient of the whole batch, one move of the optimizer."""

import math

import pytest
import torch

from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.nnunet.step import accumulate_gradients, apply_gradients, split_batch
from tests.engine_loss import build_loss

CPU = torch.device("cpu")
STRIDES = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 1, 1], [1, 1, 1], [1, 1, 1]]
SIZES = [16, 8, 4, 4, 4]


def build_network():
    torch.manual_seed(0)
    network = STUNet(1, 3, STRIDES, [4, 8, 8, 8, 8, 8], 1, deep_supervision=True)
    network.apply(network.initialize)
    return network


def make_batch(num_samples, *, regions=False):
    generator = torch.Generator().manual_seed(num_samples)
    data = torch.randn(num_samples, 1, 16, 16, 16, generator=generator)
    shapes = [(num_samples, 3 if regions else 1, size, size, size) for size in SIZES]
    target = [torch.randint(0, 2 if regions else 3, shape, generator=generator) for shape in shapes]
    return {"data": data, "target": [level.bool() if regions else level.to(torch.int16) for level in target]}


def compute(batch, micro_batch, loss, *, precision="fp32", scaler=None):
    """Return the loss and the gradients of one batch."""
    network = build_network()
    parts = split_batch(batch, micro_batch=micro_batch, device=CPU)
    value = accumulate_gradients(network, loss, parts, precision=precision, scaler=scaler)
    return value, list_gradients(network)


def list_gradients(network):
    """List the gradients; nnU-Net's loss leaves the coarsest head out."""
    return [weight.grad for name, weight in network.named_parameters() if not name.startswith("decoder.seg_layers.0")]


def measure_difference(gradients, expected):
    """Return the largest difference of two lists of gradients, relative to the norm of all of them."""
    norm = torch.stack([tensor.norm() for tensor in expected]).norm()
    return float(max((ours - theirs).norm() for ours, theirs in zip(gradients, expected, strict=True)) / norm)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize(("num_samples", "micro_batch"), [(2, 1), (3, 2), (5, 2)])
def test_accumulated_gradients_are_those_of_the_whole_batch(num_samples, micro_batch, regions):
    batch, loss = make_batch(num_samples, regions=regions), build_loss(regions=regions)
    value, gradients = compute(batch, micro_batch, loss)
    expected_value, expected = compute(batch, num_samples, loss)
    assert value == pytest.approx(expected_value, abs=1e-6)
    assert measure_difference(gradients, expected) < 1e-5


def test_batch_dice_of_micro_batches_is_another_loss():
    batch, loss = make_batch(4), build_loss(batch_dice=True)
    value, gradients = compute(batch, 2, loss)
    expected_value, expected = compute(batch, 4, loss)
    assert abs(value - expected_value) > 1e-6
    assert measure_difference(gradients, expected) > 1e-4


def test_a_whole_batch_takes_the_very_same_numbers_as_a_plain_step():
    batch, loss = make_batch(2), build_loss()
    value, gradients = compute(batch, 2, loss)
    network = build_network()
    plain = loss([level.float() for level in network(batch["data"])], batch["target"])
    plain.backward()
    assert value == float(plain.detach())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(gradients, list_gradients(network), strict=True))


def test_the_last_part_may_be_smaller_and_the_shares_add_up():
    parts = list(split_batch(make_batch(5), micro_batch=2, device=CPU))
    assert [part.data.shape[0] for part in parts] == [2, 2, 1]
    assert [part.target[4].shape[0] for part in parts] == [2, 2, 1]
    assert [part.share for part in parts] == [0.4, 0.4, 0.2]
    whole = make_batch(5)["data"]
    assert torch.equal(torch.cat([part.data for part in parts]), whole)


def test_targets_without_deep_supervision_are_split_too():
    batch = {"data": torch.zeros(3, 1, 4, 4), "target": torch.arange(3).view(3, 1, 1, 1)}
    parts = list(split_batch(batch, micro_batch=2, device=CPU))
    assert [part.target.flatten().tolist() for part in parts] == [[0, 1], [2]]


def test_a_non_finite_part_ends_the_batch_before_its_backward_pass():
    batch = make_batch(3)
    batch["data"][1] = float("nan")
    network = build_network()
    seen = []
    network.register_forward_pre_hook(lambda *_: seen.append(1))
    parts = split_batch(batch, micro_batch=1, device=CPU)
    value = accumulate_gradients(network, build_loss(), parts, precision="fp32")
    assert not math.isfinite(value)
    assert len(seen) == 2
    assert all(torch.isfinite(weight.grad).all() for weight in network.parameters() if weight.grad is not None)


def test_gradients_that_are_not_finite_leave_the_weights_alone():
    network = build_network()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    before = [weight.detach().clone() for weight in network.parameters()]
    for weight in network.parameters():
        weight.grad = torch.full_like(weight, float("inf"))
    assert not apply_gradients(network, optimizer)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(before, network.parameters(), strict=True))


def test_gradients_are_clipped_once_over_all_weights():
    network = build_network()
    optimizer = torch.optim.SGD(network.parameters(), 1.0)
    before = [weight.detach().clone() for weight in network.parameters()]
    for weight in network.parameters():
        weight.grad = torch.full_like(weight, 100.0)
    assert apply_gradients(network, optimizer)
    moved = torch.stack([(a - b).norm() for a, b in zip(before, network.parameters(), strict=True)]).norm()
    assert float(moved.detach()) == pytest.approx(12.0, rel=1e-3)


def test_a_scaled_loss_gives_the_same_step():
    """A real scaler on the CPU: gradients are scaled, and the optimizer undoes it after all parts are there."""
    batch, loss = make_batch(3), build_loss()
    networks = [build_network(), build_network()]
    for network, scaler in zip(networks, (None, torch.amp.GradScaler("cpu", init_scale=1024.0)), strict=True):
        optimizer = torch.optim.SGD(network.parameters(), 0.01)
        parts = split_batch(batch, micro_batch=2, device=CPU)
        accumulate_gradients(network, loss, parts, precision="fp32", scaler=scaler)
        assert apply_gradients(network, optimizer, scaler)
    for ours, theirs in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
