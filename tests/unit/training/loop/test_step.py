"""One step: the gradient of the whole batch in parts, one move, and nothing that makes the host wait."""

import copy
import math

import pytest
import torch

from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.nnunet.optimizer import build_optimizer
from stu_pipeline.training.loop.batch import Batch
from stu_pipeline.training.loop.step import TrainingStep
from stu_pipeline.training.loss.segmentation import build_loss
from tests.device_waits import RefuseWaiting
from tests.engine_loss import build_loss as build_stock_loss

STRIDES = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 1, 1], [1, 1, 1], [1, 1, 1]]
SIZES = [16, 8, 4, 4, 4]


def build_network():
    torch.manual_seed(0)
    network = STUNet(1, 3, STRIDES, [4, 8, 8, 8, 8, 8], 1, deep_supervision=True)
    network.apply(network.initialize)
    return network.train()


def make_batch(num_samples, *, regions=False, ignore_label=None):
    generator = torch.Generator().manual_seed(num_samples)
    data = torch.randn(num_samples, 1, 16, 16, 16, generator=generator)
    num_values = 2 if regions else 3 + (ignore_label is not None)
    num_maps = 3 + (ignore_label is not None) if regions else 1
    shapes = [(num_samples, num_maps, size, size, size) for size in SIZES]
    targets = [torch.randint(0, num_values, shape, generator=generator) for shape in shapes]
    targets = [level.bool() if regions else level.to(torch.int16) for level in targets]
    return Batch(data=data, targets=targets, case_ids=[f"case_{index}" for index in range(num_samples)])


def build_step(network=None, *, micro_batch, learning_rate=0.01, precision="fp32", loss=None, **options):
    network = network or build_network()
    optimizer = build_optimizer(network, learning_rate=learning_rate, weight_decay=3e-5)
    loss = loss or build_loss(regions=False, batch_dice=False, num_levels=5)
    return TrainingStep(network, optimizer, loss, precision=precision, micro_batch=micro_batch, **options)


def list_gradients(network):
    """List the gradients; the loss leaves the coarsest head out."""
    return [weight.grad for name, weight in network.named_parameters() if not name.startswith("decoder.seg_layers.0")]


def join(tensors):
    return torch.cat([tensor.detach().flatten().double() for tensor in tensors])


def measure_difference(found, expected):
    """Return the norm of the difference of two lists of tensors, relative to that of the second."""
    return float((join(found) - join(expected)).norm() / join(expected).norm())


def compute_gradients(batch, micro_batch, **options):
    """Return loss and gradients, before they are clipped, in double precision."""
    network = build_network().double()
    double = Batch(data=batch.data.double(), targets=batch.targets, case_ids=batch.case_ids)
    step = build_step(network, micro_batch=micro_batch, **options)
    loss = step._add_gradients(double.split(micro_batch))
    return float(loss), list_gradients(network)


@pytest.mark.parametrize("ignore_label", [None, 3])
@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize(("num_samples", "micro_batch"), [(2, 1), (5, 2)])
def test_gradients_of_parts_are_those_of_the_whole_batch(num_samples, micro_batch, batch_dice, regions, ignore_label):
    batch = make_batch(num_samples, regions=regions, ignore_label=ignore_label)
    loss = build_loss(regions=regions, batch_dice=batch_dice, ignore_label=ignore_label, num_levels=5)
    value, gradients = compute_gradients(batch, micro_batch, loss=loss)
    expected_value, expected = compute_gradients(batch, num_samples, loss=loss)
    assert value == pytest.approx(expected_value, abs=1e-6)
    assert measure_difference(gradients, expected) < 1e-6


@pytest.mark.parametrize("batch_dice", [False, True])
def test_loss_and_gradients_in_parts_are_those_of_nnunet_at_once(batch_dice):
    batch = make_batch(3)
    value, gradients = compute_gradients(batch, 1, loss=build_loss(regions=False, batch_dice=batch_dice, num_levels=5))
    network = build_network().double()
    stock = build_stock_loss(batch_dice=batch_dice)(network(batch.data.double()), batch.targets)
    stock.backward()
    assert value == pytest.approx(float(stock.detach()), abs=1e-5)
    assert measure_difference(gradients, list_gradients(network)) < 1e-5


def test_batch_dice_of_each_part_alone_is_another_loss():
    batch, loss = make_batch(4), build_loss(regions=False, batch_dice=True, num_levels=5)
    value, gradients = compute_gradients(batch, 2, loss=loss, is_dice_per_part=True)
    expected_value, expected = compute_gradients(batch, 4, loss=loss)
    assert abs(value - expected_value) > 1e-6
    assert measure_difference(gradients, expected) > 1e-4


@pytest.mark.parametrize(
    ("batch_dice", "is_per_part", "num_passes"), [(False, False, 2), (True, False, 4), (True, True, 2)]
)
def test_only_batch_dice_of_the_whole_batch_costs_a_pass_more(batch_dice, is_per_part, num_passes):
    network, passes = build_network(), []
    network.register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    loss = build_loss(regions=False, batch_dice=batch_dice, num_levels=5)
    build_step(network, micro_batch=1, loss=loss, is_dice_per_part=is_per_part).run(make_batch(2))
    assert len(passes) == num_passes and sum(passes) == 2
    passes.clear()
    build_step(network, micro_batch=2, loss=loss).run(make_batch(2))
    assert len(passes) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_few_steps_lower_the_loss_of_their_own_batch(precision):
    step, batch = build_step(micro_batch=2, precision=precision), make_batch(2)
    losses = [float(step.run(batch).loss) for _ in range(4)]
    assert losses[-1] < losses[0]


def test_a_step_in_parts_moves_the_weights_as_the_whole_batch_does():
    steps, batch = [build_step(micro_batch=size) for size in (3, 2)], make_batch(3)
    start = join(steps[0].network.parameters())
    outcomes = [step.run(batch) for step in steps]
    assert float(outcomes[0].loss) == pytest.approx(float(outcomes[1].loss), abs=1e-5)
    whole, parts = (join(step.network.parameters()) - start for step in steps)
    # Instance normalisation over a few voxels makes 1e-4 out of float32's rounding.
    assert (whole - parts).norm() < 5e-3 * whole.norm()


@pytest.mark.parametrize("place", [0, 2])
def test_a_sample_that_is_not_finite_moves_nothing_and_is_a_fault(place):
    step, batch = build_step(micro_batch=1), make_batch(3)
    batch.data[place] = float("nan")
    before, momentum = join(step.network.parameters()), copy.deepcopy(step.optimizer.state_dict()["state"])
    outcome = step.run(batch)
    assert not math.isfinite(float(outcome.loss)) and float(outcome.is_fault) == 1
    assert torch.equal(before, join(step.network.parameters()))
    after = step.optimizer.state_dict()["state"]
    assert all(torch.equal(momentum[key]["momentum_buffer"], after[key]["momentum_buffer"]) for key in after)
    assert float(step.run(make_batch(3)).is_fault) == 0
    assert not torch.equal(before, join(step.network.parameters()))


def test_gradients_that_are_not_finite_are_a_fault_though_the_loss_is_finite():
    step = build_step(micro_batch=2)
    weight = step.network.decoder.seg_layers[-1].weight
    weight.register_hook(lambda gradient: gradient * float("inf"))
    before = join(step.network.parameters())
    outcome = step.run(make_batch(2))
    assert math.isfinite(float(outcome.loss)) and float(outcome.is_fault) == 1
    assert torch.equal(before, join(step.network.parameters()))


def test_gradients_are_clipped_once_over_all_weights():
    step = build_step(micro_batch=1, learning_rate=1.0)
    step.optimizer.param_groups[0].update(weight_decay=0.0, momentum=0.0, nesterov=False)
    for weight in step.network.parameters():
        weight.register_hook(lambda gradient: torch.full_like(gradient, 100.0))
    before = join(step.network.parameters())
    assert float(step.run(make_batch(2)).is_fault) == 0
    assert float((join(step.network.parameters()) - before).norm()) == pytest.approx(12.0, rel=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("init_scale", [None, 64.0])
def test_gradients_are_adjusted_once_complete_unscaled_and_not_clipped(precision, init_scale):
    network, seen = build_network(), []
    for weight in network.parameters():
        weight.register_hook(lambda gradient: torch.full_like(gradient, 100.0 * (init_scale or 1.0)))

    def adjust():
        weights = [weight for weight in network.parameters() if weight.grad is not None]
        seen.append(torch.cat([weight.grad.flatten() for weight in weights]))
        for weight in weights:
            weight.grad.zero_()
        weights[0].grad[0, 0, 0, 0, 0] = 8.0

    scaler = None if init_scale is None else torch.amp.GradScaler("cpu", init_scale=init_scale)
    step = build_step(
        network, micro_batch=2, learning_rate=1.0, precision=precision, scaler=scaler, adjust_gradients=adjust
    )
    step.optimizer.param_groups[0].update(weight_decay=0.0, momentum=0.0, nesterov=False)
    before = join(network.parameters())
    assert float(step.run(make_batch(3)).is_fault) == 0
    # Two parts: every gradient is that of both, and what was set by hand is below the limit of the norm.
    assert len(seen) == 1 and torch.equal(seen[0], torch.full_like(seen[0], 200.0))
    moved = join(network.parameters()) - before
    assert float(moved.norm()) == pytest.approx(8.0, rel=1e-5) and int((moved != 0).sum()) == 1


def test_gradients_adjusted_to_no_number_are_a_fault():
    step = build_step(micro_batch=2)
    weight = step.network.decoder.seg_layers[-1].weight
    step._adjust_gradients = lambda: weight.grad.fill_(float("nan"))
    before = join(step.network.parameters())
    assert float(step.run(make_batch(2)).is_fault) == 1
    assert torch.equal(before, join(step.network.parameters()))


def test_a_scaled_loss_gives_the_same_step():
    """A real scaler on the CPU: gradients are scaled, and the optimizer undoes it after all parts are there."""
    batch = make_batch(3)
    scaled = build_step(micro_batch=2, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    plain = build_step(micro_batch=2)
    for step in (scaled, plain):
        assert float(step.run(batch).is_fault) == 0
    for ours, theirs in zip(scaled.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_a_scale_that_is_too_large_skips_the_step_and_is_no_fault():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    step = build_step(micro_batch=2, scaler=scaler)
    before = join(step.network.parameters())
    outcome = step.run(make_batch(2))
    assert math.isfinite(float(outcome.loss)) and float(outcome.is_fault) == 0
    assert torch.equal(before, join(step.network.parameters()))
    assert scaler.get_scale() == 2.0**126


def test_a_step_that_did_not_finish_leaves_no_gradients():
    step, calls = build_step(micro_batch=1), []
    before = join(step.network.parameters())

    def fail_late(*_):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("no more")

    handle = step.network.register_forward_pre_hook(fail_late)
    with pytest.raises(MemoryError):
        step.run(make_batch(2))
    step.drop()
    assert all(weight.grad is None for weight in step.network.parameters())
    assert torch.equal(before, join(step.network.parameters()))
    handle.remove()
    expected = build_step(micro_batch=1)
    expected.run(make_batch(2))
    step.run(make_batch(2))
    assert torch.equal(join(step.network.parameters()), join(expected.network.parameters()))


@pytest.mark.parametrize(
    ("precision", "micro_batch", "batch_dice"), [("fp32", 2, False), ("bf16", 1, True), ("bf16", 2, True)]
)
def test_nothing_in_a_step_waits_for_the_device(precision, micro_batch, batch_dice):
    loss = build_loss(regions=False, batch_dice=batch_dice, ignore_label=3, num_levels=5)
    step, batch = build_step(micro_batch=micro_batch, precision=precision, loss=loss), make_batch(2, ignore_label=3)
    with RefuseWaiting():
        step.run(batch)


def test_the_guard_against_waiting_would_notice():
    with RefuseWaiting(), pytest.raises(RuntimeError, match="waits for the device"):
        float(torch.ones(1).sum())


def test_scores_in_parts_are_those_of_the_whole_batch():
    loss = build_loss(regions=False, batch_dice=True, num_levels=5)
    batch, results = make_batch(3), []
    for micro_batch in (3, 2):
        step = build_step(micro_batch=micro_batch, loss=loss)
        with torch.no_grad():
            logits, value = step.score(step.network.eval(), batch)
        results.append((torch.cat(logits), float(value)))
    assert results[0][1] == pytest.approx(results[1][1], abs=1e-5)
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-3, atol=1e-3)
