"""The rungs between the plan and the least memory a step can take."""

import pytest

from stu_pipeline.plan_execution import Execution
from stu_pipeline.training.loop.memory_ladder import describe_step_down, step_down


def list_rungs(execution, *, can_checkpoint=True):
    rungs = []
    while execution is not None:
        rungs.append((execution.micro_batch, execution.activation_checkpointing))
        execution = step_down(execution, can_checkpoint=can_checkpoint)
    return rungs


def test_checkpointing_comes_first_then_halves_of_the_batch_down_to_one_sample():
    assert list_rungs(Execution(micro_batch=5)) == [(5, False), (5, True), (2, True), (1, True)]


def test_a_network_that_cannot_checkpoint_goes_on_with_smaller_parts():
    assert list_rungs(Execution(micro_batch=4), can_checkpoint=False) == [(4, False), (2, False), (1, False)]


@pytest.mark.parametrize("scope", ["sample", "effective batch"])
def test_the_statistics_of_the_batch_stay_on_every_rung(scope):
    execution = Execution(micro_batch=4, batch_dice_scope=scope)
    while execution is not None:
        assert execution.batch_dice_scope == scope
        execution = step_down(execution, can_checkpoint=True)


def test_a_plan_that_sums_dice_over_each_part_keeps_its_parts():
    planned = Execution(micro_batch=4, batch_dice_scope="micro-batch")
    on = step_down(planned, can_checkpoint=True)
    assert on == Execution(micro_batch=4, activation_checkpointing=True, batch_dice_scope="micro-batch")
    assert step_down(on, can_checkpoint=True) is None


def test_a_line_says_what_changed_and_what_did_not():
    whole, on = Execution(micro_batch=4), Execution(micro_batch=4, activation_checkpointing=True)
    half = Execution(micro_batch=2, activation_checkpointing=True)
    assert "activations are recomputed" in describe_step_down(whole, on, batch=4)
    line = describe_step_down(on, half, batch=4)
    assert "the batch of 4 passes in parts of 2 from now on, not 4" in line
    assert "the effective batch and its statistics stay the same" in line
