"""How a training step of one configuration is carried out: the part of a plan that changes memory, not the result.

The plan's `batch_size` is always the effective batch, the number of samples per optimizer step: loader,
foreground oversampling and learning rate refer to it. What the GPU holds at once is the micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from stu_pipeline.plan_architecture import resolve_configuration

EXECUTION_KEY = "execution"
BatchDiceScope = Literal["effective batch", "micro-batch", "sample"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How one optimizer step runs on the device."""

    micro_batch: int
    """Samples that pass the network at once; the last part of a step may be smaller."""
    activation_checkpointing: bool = False
    """Whether residual blocks are recomputed in the backward pass instead of being kept."""
    batch_dice_scope: BatchDiceScope = "sample"
    """Over which samples the soft Dice sums run: 'sample' where the plan asks for no batch Dice. 'micro-batch' is
    honoured in older plans; new ones never say it."""

    def count_accumulation_steps(self, batch: int) -> int:
        """Count the micro-batches of one optimizer step.

        >>> Execution(micro_batch=2).count_accumulation_steps(5)
        3
        """
        return math.ceil(batch / self.micro_batch)

    def needs_dice_pass(self, batch: int) -> bool:
        """Tell whether a step sums Dice in forward passes of its own, because its parts need the sums of all of them.

        >>> Execution(micro_batch=1, batch_dice_scope="effective batch").needs_dice_pass(2)
        True
        """
        return self.batch_dice_scope == "effective batch" and self.micro_batch < batch

    def to_json(self) -> dict[str, Any]:
        """Return the plan's form of it."""
        return asdict(self)


def read_execution(story: Mapping[str, Any] | None, configuration: str, *, batch: int, batch_dice: bool) -> Execution:
    """Read how a configuration runs from our block of a plan; plans without it run the whole batch at once.

    Args:
        story: the plan's `stu` block, or None for a stock plan.
        configuration: its name.
        batch: the configuration's effective batch.
        batch_dice: whether the configuration asks for batch Dice.

    Raises:
        ValueError: the block holds something else.
    """
    whole = Execution(micro_batch=batch, batch_dice_scope="effective batch" if batch_dice else "sample")
    found = ((story or {}).get(EXECUTION_KEY) or {}).get(configuration)
    if found is None:
        return whole
    micro, is_kept = found.get("micro_batch"), found.get("activation_checkpointing")
    scope = found.get("batch_dice_scope")
    if type(micro) is not int or not 1 <= micro <= batch or type(is_kept) is not bool:
        raise ValueError(
            f"execution of '{configuration}' must have a micro_batch from 1 to {batch} and a checkpointing flag"
        )
    if scope not in ("effective batch", "micro-batch", "sample"):
        raise ValueError(f"execution of '{configuration}' has the unknown batch_dice_scope '{scope}'")
    return Execution(micro_batch=micro, activation_checkpointing=is_kept, batch_dice_scope=scope)


def find_execution(story: Mapping[str, Any] | None, configurations: Mapping[str, Any], name: str) -> Execution:
    """Return how a configuration's steps run; one that was added by hand runs as the one it inherits from.

    Args:
        story: the plan's `stu` block, or None for a stock plan.
        configurations: the plan's configurations.
        name: which one.

    Raises:
        ValueError: the block holds something else.
    """
    resolved = resolve_configuration(configurations, name)
    known = (story or {}).get(EXECUTION_KEY) or {}
    batch, batch_dice = int(resolved["batch_size"]), bool(resolved.get("batch_dice", False))
    source: str | None = name
    while source is not None and source not in known:
        source = configurations[source].get("inherits_from")
    if source is None or source == name:
        return read_execution(story, name, batch=batch, batch_dice=batch_dice)
    # A larger batch runs in parts of the size that fits, a smaller one in one part.
    micro_batch = min(known[source]["micro_batch"], batch)
    is_split = known[source].get("batch_dice_scope") == "micro-batch" and micro_batch < batch
    scope = "micro-batch" if is_split else "effective batch"
    part = {**known[source], "micro_batch": micro_batch, "batch_dice_scope": scope if batch_dice else "sample"}
    return read_execution({EXECUTION_KEY: {name: part}}, name, batch=batch, batch_dice=batch_dice)
