"""Run a step, and when memory runs out run the same step with less memory at once."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

from stu_pipeline.errors import MemoryLimitError
from stu_pipeline.log import Listener, Notice
from stu_pipeline.nnunet.memory_meter import is_out_of_memory
from stu_pipeline.plan_execution import Execution
from stu_pipeline.training.loop.batch import Batch
from stu_pipeline.training.loop.memory_ladder import describe_step_down, step_down
from stu_pipeline.training.loop.step import StepOutcome, TrainingStep


class MemoryRelief:
    """Keeps how a step runs, and steps down the ladder when it does not fit.

    Args:
        network: the bare network.
        execution: how the plan, or an earlier part of this run, says that a step runs.
        batch: effective batch.
        world_size: with several ranks there is no stepping down: the others would wait for gradients that never come.
        listen: is told about it.
        note_change: writes it into the record of the run.
    """

    def __init__(
        self,
        network: Any,
        execution: Execution,
        *,
        batch: int,
        world_size: int,
        listen: Listener,
        note_change: Callable[[Execution], None],
    ) -> None:
        self.execution = execution
        self._network = network
        self._batch = batch
        self._world_size = world_size
        self._listen = listen
        self._note_change = note_change
        self._apply(execution)

    def run(self, step: TrainingStep, batch: Batch) -> StepOutcome:
        """Run a step, as often as the ladder has rungs.

        Raises:
            MemoryLimitError: one sample at a time, with activation checkpointing, does not fit.
        """
        while True:
            step.micro_batch = self.execution.micro_batch
            problem = None
            try:
                return step.run(batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                problem = str(error).partition("\n")[0]
            # Only here, where the error and the activations it holds on to are gone, there is memory again.
            step.drop()
            self._step_down(problem, batch.data.device)

    def _step_down(self, problem: str, device: torch.device) -> None:
        can_checkpoint = hasattr(self._network, "set_activation_checkpointing")
        rung = step_down(self.execution, can_checkpoint=can_checkpoint) if self._world_size == 1 else None
        if rung is None:
            raise MemoryLimitError(f"memory ran out: {problem}", hint="plan for less with stu plan --gpu-memory")
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        text = describe_step_down(self.execution, rung, batch=self._batch)
        self.execution = rung
        self._apply(rung)
        self._listen(Notice(text=text, is_warning=True))
        self._note_change(rung)

    def _apply(self, execution: Execution) -> None:
        if execution.activation_checkpointing:
            self._network.set_activation_checkpointing(True)
