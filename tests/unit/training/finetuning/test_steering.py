"""Weights move as their group says: rest is rest to the last bit, the pull is L2-SP, and a run goes on exactly."""

import copy

import pytest
import torch

from stu_pipeline.nnunet.optimizer import build_optimizer
from stu_pipeline.training.finetuning.groups import ParameterGroup, Tuning
from stu_pipeline.training.finetuning.recipes import RECIPES
from stu_pipeline.training.finetuning.steering import Steering
from stu_pipeline.training.loop.schedule import is_resting
from tests.unit.training.finetuning.small_start import NUM_STEPS, SmallRun, build_network

ENCODER = "conv_blocks_context.3.0.conv1.weight"
DECODER = "conv_blocks_localization.3.0.conv1.weight"
HEAD = "decoder.seg_layers.4.weight"


def steer(weights, tuning, start=None, *, weight_decay=0.0):
    """Return a module with these weights, its optimizer and its steering."""
    module = torch.nn.ParameterDict({name: torch.nn.Parameter(weight.clone()) for name, weight in weights.items()})
    groups = [(group.parameters, group.weight_decay) for group in tuning.groups]
    optimizer = build_optimizer(module, learning_rate=0.1, weight_decay=weight_decay, groups=groups)
    return module, optimizer, Steering(module, tuning, start or {}, weight_decay=weight_decay)


def test_weights_that_rest_stay_to_the_last_bit_and_gather_no_momentum():
    run = SmallRun("decoder-first")
    before = run.weights
    resting = round(run.tuning.frozen_epochs * NUM_STEPS)
    run.train(0, resting)
    after = run.weights
    assert resting == 2 and all(torch.equal(after[name], before[name]) for name in run.tuning.frozen)
    assert not run.momentum(ENCODER).any() and run.momentum(DECODER).any()
    assert not torch.equal(after[DECODER], before[DECODER])
    run.train(resting, resting + 1)
    assert not torch.equal(run.weights[ENCODER], before[ENCODER])


def test_the_step_after_the_rest_is_the_first_one():
    resting = [is_resting(*divmod(index, 4), num_iterations=4, rest_epochs=1.5) for index in range(8)]
    assert resting == [True] * 6 + [False] * 2
    assert not is_resting(0, 0, num_iterations=4, rest_epochs=0.0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_goes_on_exactly_in_the_middle_of_every_recipe(recipe):
    middle = 1 if recipe == "decoder-first" else 2  # the encoder rests in two steps
    whole = SmallRun(recipe, kept=(1, 2)).train(0, 4)
    first = SmallRun(recipe, kept=(1, 2)).train(0, middle)
    state = copy.deepcopy({"network": first.network.state_dict(), "optimizer": first.optimizer.state_dict()})
    second = SmallRun(recipe, seed=9, kept=(1, 2), state=state, start=first.start).train(middle, 4)
    for name, weight in whole.weights.items():
        assert torch.equal(second.weights[name], weight), f"{recipe}: {name}"
        assert torch.equal(second.momentum(name), whole.momentum(name))


def test_each_group_has_its_own_learning_rate_in_every_step():
    run = SmallRun("discriminative")
    run.steering.begin_step(run.optimizer, 0.5, epoch=0, step=0, num_steps=NUM_STEPS)
    rates = [group["lr"] for group in run.optimizer.param_groups]
    assert rates == pytest.approx([0.5 * group.rate_factor for group in run.tuning.groups])
    assert max(rates) == 0.5 and min(rates) == pytest.approx(0.5 * 0.8**11)


def test_the_pull_is_the_gradient_of_half_the_squared_distance_to_the_start():
    start = torch.tensor([1.0, -2.0, 3.0])
    tuning = Tuning(groups=(ParameterGroup(parameters=("a",), rate_factor=1.0, weight_decay=0.0, start_pull=0.5),))
    module, optimizer, steering = steer({"a": start + torch.tensor([0.2, 0.0, -0.4])}, tuning, {"a": start})
    weight = module["a"]
    weight.grad = torch.tensor([1.0, 1.0, 1.0])
    steering.begin_step(optimizer, 0.1, epoch=0, step=0, num_steps=1)
    steering.adjust_gradients()
    torch.testing.assert_close(weight.grad, torch.tensor([1.1, 1.0, 0.8]))
    wanted = weight.detach().clone().requires_grad_()
    (wanted.sum() + 0.25 * (wanted - start).square().sum()).backward()
    torch.testing.assert_close(weight.grad, wanted.grad)


def test_without_any_other_gradient_pulled_weights_go_back_and_others_stay():
    start = {"a": torch.ones(3)}
    groups = (
        ParameterGroup(parameters=("a",), rate_factor=1.0, weight_decay=0.0, start_pull=0.01),
        ParameterGroup(parameters=("b",), rate_factor=1.0, weight_decay=0.0),
    )
    module, optimizer, steering = steer(
        {"a": torch.full((3,), 2.0), "b": torch.full((3,), 2.0)}, Tuning(groups=groups), start
    )
    for step in range(200):
        for weight in module.values():
            weight.grad = torch.zeros_like(weight)
        steering.begin_step(optimizer, 0.01, epoch=0, step=step, num_steps=200)
        steering.adjust_gradients()
        optimizer.step()
    assert 1.0 < float(module["a"][0].detach()) < 1.3
    assert module["b"].tolist() == [2.0] * 3


def test_kept_outputs_move_slowly_and_back_and_new_ones_freely_and_decayed():
    start = torch.ones(3, 2)
    group = ParameterGroup(parameters=("a",), rate_factor=1.0, weight_decay=0.0, start_pull=0.5)
    tuning = Tuning(groups=(group,), kept_rows={"a": (1,)}, kept_factor=0.1)
    module, optimizer, steering = steer({"a": torch.full((3, 2), 2.0)}, tuning, {"a": start}, weight_decay=0.25)
    module["a"].grad = torch.ones(3, 2)
    steering.begin_step(optimizer, 0.1, epoch=0, step=0, num_steps=1)
    steering.adjust_gradients()
    new, kept = 1 + 0.25 * 2.0, 0.1 * (1 + 0.5 * (2.0 - 1.0))
    torch.testing.assert_close(module["a"].grad, torch.tensor([[new] * 2, [kept] * 2, [new] * 2]))


def test_kept_heads_and_body_stay_near_where_they_began():
    free, kept = SmallRun("warmup", kept=(1, 2)).train(0, 5), SmallRun("continual", kept=(1, 2)).train(0, 5)
    begun = build_network().state_dict()

    def measure(run, name, rows=slice(None)):
        return float((run.weights[name] - begun[name])[rows].norm())

    assert measure(kept, ENCODER) < 0.5 * measure(free, ENCODER)
    assert measure(kept, HEAD, [1, 2]) < 0.5 * measure(kept, HEAD, [0, 3])


def test_a_weight_without_a_gradient_is_left_alone():
    start = {"a": torch.zeros(2)}
    group = ParameterGroup(parameters=("a",), rate_factor=1.0, weight_decay=0.0, start_pull=0.5)
    for rows in (None, {"a": (0,)}):
        module, _, steering = steer({"a": torch.ones(2)}, Tuning(groups=(group,), kept_rows=rows), start)
        steering.adjust_gradients()
        assert module["a"].grad is None


@pytest.mark.parametrize("groups", [[(("a",), 0.0)], [(("a", "b"), 0.0), (("a",), 0.0)], [(("a", "b", "c"), 0.0)]])
def test_groups_that_miss_a_weight_or_have_it_twice_are_no_optimizer(groups):
    module = torch.nn.ParameterDict({name: torch.nn.Parameter(torch.zeros(1)) for name in "ab"})
    with pytest.raises(ValueError, match="every weight once"):
        build_optimizer(module, learning_rate=0.1, weight_decay=0.0, groups=groups)
