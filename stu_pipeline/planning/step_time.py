"""Forecast how long an epoch takes from the convolutions' multiply-adds.

The coefficients and where they come from are data: `plans/time.json`, and `plans/measured_gpu.json` once a GPU has
been measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stu_pipeline.knowledge import find_knowledge, read_knowledge
from stu_pipeline.plan_execution import Execution
from stu_pipeline.planning.memory import MEASURED_NAME, Provenance

# A backward pass is two forward passes of work: gradients of the weights and of the input.
PASSES_PER_STEP, PASSES_WITH_CHECKPOINTING = 3, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """The work on one sample, in forward passes."""

    training: int
    validation: int


def count_passes(execution: Execution, *, batch: int) -> Passes:
    """Count the passes of training and validation steps, for a batch however it is split.

    >>> count_passes(Execution(micro_batch=1, batch_dice_scope="effective batch"), batch=2)
    Passes(training=4, validation=2)
    """
    extra = int(execution.needs_dice_pass(batch))
    passes = PASSES_WITH_CHECKPOINTING if execution.activation_checkpointing else PASSES_PER_STEP
    return Passes(training=passes + extra, validation=1 + extra)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeModel:
    """Seconds as a linear function of work, on one device."""

    overhead_s: float
    """Per epoch."""
    seconds_per_multiply_add: float
    train_steps: int
    validation_steps: int
    epochs: int
    device: str
    status: str
    provenance: Provenance = "inferred"

    def forecast_epoch_s(self, multiply_adds: int, *, batch: int, execution: Execution | None = None) -> float:
        """Forecast the seconds of one epoch.

        Args:
            multiply_adds: of one forward pass of one sample.
            batch: samples per optimizer step.
            execution: how it runs; None for the whole batch at once.
        """
        passes = count_passes(execution or Execution(micro_batch=batch), batch=batch)
        work = multiply_adds * batch * (self.train_steps * passes.training + self.validation_steps * passes.validation)
        return self.overhead_s + self.seconds_per_multiply_add * work

    def extrapolate_epoch_s(self, step_s: float, *, batch: int, execution: Execution) -> float:
        """Return the seconds of an epoch of measured training steps: loading keeps up, validation is forward only."""
        passes = count_passes(execution, batch=batch)
        return step_s * (self.train_steps + self.validation_steps * passes.validation / passes.training)

    def forecast_forward_s(self, multiply_adds: int) -> float:
        """Forecast the seconds of one forward pass of one sample."""
        return self.seconds_per_multiply_add * multiply_adds

    def count_hours(self, epoch_s: float) -> float:
        """Return the hours of a whole training."""
        return epoch_s * self.epochs / 3600


def read_time_model() -> TimeModel:
    """Read the coefficients: measured ones where `plans/measured_gpu.json` has them, else the fitted ones."""
    fitted = read_knowledge("time.json")
    measured = (find_knowledge(MEASURED_NAME) or {}).get("time")
    return parse_time_model({**fitted, **measured} if measured else fitted)


def parse_time_model(content: Mapping[str, Any]) -> TimeModel:
    """Build the model from the content of `time.json`."""
    return TimeModel(
        overhead_s=float(content["overhead_s"]),
        seconds_per_multiply_add=float(content["seconds_per_multiply_add"]),
        train_steps=int(content["train_steps"]),
        validation_steps=int(content["validation_steps"]),
        epochs=int(content["epochs"]),
        device=str(content["device"]),
        status=str(content["status"]),
        provenance=content["provenance"],
    )
