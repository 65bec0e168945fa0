"""What a plan says about how a step runs, checked against what a training does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from stu_pipeline.errors import ModelError
from stu_pipeline.plan_architecture import resolve_configuration
from stu_pipeline.plan_execution import BatchDiceScope, Execution, find_execution
from stu_pipeline.planfile import STU_KEY


def require_execution(plan: Mapping[str, Any], configuration: str, *, where: Path | None = None) -> Execution:
    """Read how a configuration runs, and check that it can run as the plan says.

    Args:
        plan: content of a plan file, of ours or stock.
        configuration: its name.
        where: for messages.

    Raises:
        ModelError: the block is malformed, or promises a scope of batch Dice that its steps would not have.
    """
    hint = "make the plan again: stu plan DATASET --force"
    configurations = plan["configurations"]
    try:
        execution = find_execution(plan.get(STU_KEY), configurations, configuration)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"plan is malformed: {error}", where=where, hint=hint) from error
    resolved = resolve_configuration(configurations, configuration)
    batch, batch_dice = int(resolved["batch_size"]), bool(resolved.get("batch_dice", False))
    possible = _list_scopes(execution.micro_batch, batch, batch_dice=batch_dice)
    if execution.batch_dice_scope not in possible:
        found = f"batch {batch}, micro-batch {execution.micro_batch} and batch_dice {str(batch_dice).lower()}"
        raise ModelError(
            f"plan says that Dice of '{configuration}' is summed per {execution.batch_dice_scope}, "
            f"with {found} it is per {' or per '.join(possible)}",
            where=where,
            hint=hint,
        )
    return execution


def switch_checkpointing(network: nn.Module, execution: Execution, *, where: Path | None = None) -> None:
    """Give a network the activation checkpointing of its plan.

    Raises:
        ModelError: the plan wants it, and the network has no such switch.
    """
    if not execution.activation_checkpointing:
        return
    switch = getattr(network, "set_activation_checkpointing", None)
    if switch is None:
        raise ModelError(
            f"plan wants activation checkpointing, which network '{type(network).__name__}' does not offer",
            where=where,
            hint="set activation_checkpointing to false in the plan's 'stu'",
        )
    switch(True)


def describe_execution(execution: Execution, *, batch: int) -> dict[str, Any]:
    """Return what `run.json` keeps of it."""
    return {
        "effective_batch": batch,
        "num_accumulation_steps": execution.count_accumulation_steps(batch),
        **execution.to_json(),
    }


def _list_scopes(micro_batch: int, batch: int, *, batch_dice: bool) -> tuple[BatchDiceScope, ...]:
    if not batch_dice:
        return ("sample",)
    # Older plans split the sums; a step still does so where a plan says it.
    return ("effective batch", "micro-batch") if micro_batch < batch else ("effective batch",)
