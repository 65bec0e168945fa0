"""How a step runs: what the plan says, and what is refused because no training could keep it."""

import pytest
import torch

from stu_pipeline.errors import ModelError
from stu_pipeline.nnunet.execution import describe_execution, require_execution, switch_checkpointing
from stu_pipeline.plan_execution import Execution


def make_plan(batch=2, *, batch_dice=True, **execution):
    """Make the parts of a plan that matter here, with a configuration that inherits from the other."""
    configuration = {"batch_size": batch, "batch_dice": batch_dice}
    plan = {"configurations": {"3d_fullres": configuration, "mine": {"inherits_from": "3d_fullres", "batch_size": 5}}}
    return plan | ({"stu": {"execution": {"3d_fullres": execution}}} if execution else {})


def test_a_plan_without_the_block_runs_the_whole_batch_at_once():
    execution = require_execution(make_plan(3), "3d_fullres")
    assert execution == Execution(micro_batch=3, batch_dice_scope="effective batch")


def test_the_block_is_read():
    plan = make_plan(micro_batch=1, activation_checkpointing=True, batch_dice_scope="micro-batch")
    assert describe_execution(require_execution(plan, "3d_fullres"), batch=2) == {
        "effective_batch": 2,
        "num_accumulation_steps": 2,
        "micro_batch": 1,
        "activation_checkpointing": True,
        "batch_dice_scope": "micro-batch",
    }


def test_a_configuration_added_by_hand_runs_in_the_parts_of_the_one_it_inherits_from():
    plan = make_plan(micro_batch=2, activation_checkpointing=True, batch_dice_scope="effective batch")
    expected = Execution(micro_batch=2, activation_checkpointing=True, batch_dice_scope="effective batch")
    assert require_execution(plan, "mine") == expected


@pytest.mark.parametrize("scope", ["effective batch", "micro-batch"])
def test_batch_dice_of_parts_may_run_over_all_of_them_or_as_in_older_plans_over_each(scope):
    plan = make_plan(micro_batch=1, activation_checkpointing=False, batch_dice_scope=scope)
    assert require_execution(plan, "3d_fullres").batch_dice_scope == scope


@pytest.mark.parametrize(
    ("scope", "batch", "batch_dice", "actual"),
    [
        ("effective batch", 2, False, "sample"),
        ("sample", 2, True, "effective batch or per micro-batch"),
        ("sample", 1, True, "effective batch"),
        ("micro-batch", 2, False, "sample"),
        ("micro-batch", 1, True, "effective batch"),
    ],
)
def test_a_scope_of_batch_dice_that_the_training_cannot_give_is_refused(scope, batch, batch_dice, actual):
    plan = make_plan(
        batch, batch_dice=batch_dice, micro_batch=1, activation_checkpointing=False, batch_dice_scope=scope
    )
    with pytest.raises(ModelError, match=f"it is per {actual}"):
        require_execution(plan, "3d_fullres")


def test_a_malformed_block_is_a_model_error():
    with pytest.raises(ModelError, match="micro_batch from 1 to 2"):
        require_execution(make_plan(micro_batch=3), "3d_fullres")
    with pytest.raises(ModelError, match="plan is malformed"):
        require_execution(make_plan() | {"stu": {"execution": {"3d_fullres": [1]}}}, "3d_fullres")


def test_checkpointing_on_a_network_without_the_switch_is_refused():
    on = Execution(micro_batch=1, activation_checkpointing=True)
    with pytest.raises(ModelError, match="network 'Conv3d' does not offer"):
        switch_checkpointing(torch.nn.Conv3d(1, 1, 1), on)
    switch_checkpointing(torch.nn.Conv3d(1, 1, 1), Execution(micro_batch=1))
