"""What to do when memory runs out: the same step with less memory at once, rung by rung."""

from __future__ import annotations

from dataclasses import replace

from stu_pipeline.plan_execution import Execution


def step_down(execution: Execution, *, can_checkpoint: bool) -> Execution | None:
    """Return the next cheaper way to run the same step, or None at the foot of the ladder.

    First activation checkpointing, then half the micro-batch. Batch, oversampling, Dice sums and learning rate stay
    those of the effective batch, so the result keeps its meaning.

    Args:
        execution: how it ran until now.
        can_checkpoint: whether the network offers activation checkpointing.
    """
    if can_checkpoint and not execution.activation_checkpointing:
        return replace(execution, activation_checkpointing=True)
    # An older plan may promise batch Dice per part: with smaller parts that would be another loss.
    if execution.micro_batch > 1 and execution.batch_dice_scope != "micro-batch":
        return replace(execution, micro_batch=execution.micro_batch // 2)
    return None


def describe_step_down(before: Execution, after: Execution, *, batch: int) -> str:
    """Say in one line what changed, and what did not."""
    if after.activation_checkpointing != before.activation_checkpointing:
        change = "activations are recomputed from now on"
    else:
        change = f"the batch of {batch} passes in parts of {after.micro_batch} from now on, not {before.micro_batch}"
    return f"memory ran out: {change}; the effective batch and its statistics stay the same"
