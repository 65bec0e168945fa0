"""One step of a training: a batch passes the network in parts, then the optimizer moves once.

Nothing here waits for the device: whether a step counted stays there as a number, which the loop reads one step
later. Knows nothing of nnU-Net; the loop, the probe and the bench share it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stu_pipeline.training.loop.batch import Batch
from stu_pipeline.training.loss.marks import SampleMarks
from stu_pipeline.training.loss.parts import DiceSums, WholeBatch
from stu_pipeline.training.loss.segmentation import SegmentationLoss
from stu_pipeline.training.parallel.reduce import sum_over_ranks
from stu_pipeline.training.parallel.sharding import is_sharded, move_weights
from stu_pipeline.training.parallel.wrap import skip_gradient_exchange

GRADIENT_NORM_LIMIT = 12.0
_AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, eq=False)
class StepOutcome:
    """What a step came to, as numbers on the device: reading them here would make the host wait."""

    loss: torch.Tensor
    """Loss of the batch of all ranks."""
    is_fault: torch.Tensor
    """1 where the loss was not finite, or the gradients were not and no scaler takes care of it; else 0."""


class TrainingStep:
    """Forward, backward and update of one batch.

    Args:
        network: in training mode, possibly compiled and wrapped for several ranks.
        optimizer: fused, so that a step which does not count moves nothing.
        loss: additive over parts.
        precision: `bf16`, `fp16` or `fp32`.
        micro_batch: samples that pass the network at once; may be changed between steps.
        scaler: gradient scaler of fp16.
        world_size: ranks that train together; gradients are averaged over them.
        largest_share: samples of a step on the rank that has most; all ranks must agree on what they exchange.
        memory_format: layout of the network's weights; the data is brought into it.
        is_dice_per_part: batch Dice over each part alone, as older plans may promise; else over the whole batch.
        sample_marks: where labels are marked in some cases only; batches then name the case of every sample.
        adjust_gradients: called when the gradients of a whole batch are there, unscaled and not yet clipped; it
            changes them in place, and must not wait for the device. Every rank calls it.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.SGD,
        loss: SegmentationLoss,
        *,
        precision: str,
        micro_batch: int,
        scaler: Any = None,
        world_size: int = 1,
        largest_share: int = 1,
        is_dice_per_part: bool = False,
        memory_format: torch.memory_format = torch.contiguous_format,
        sample_marks: SampleMarks | None = None,
        adjust_gradients: Callable[[], None] | None = None,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.loss = loss
        self.precision = precision
        self.micro_batch = micro_batch
        self._scaler = scaler
        self._world_size = world_size
        self._memory_format = memory_format
        self._is_sharded = is_sharded(network)
        self._largest_share = largest_share
        self._is_dice_per_part = is_dice_per_part
        self._sample_marks = sample_marks
        self._adjust_gradients = adjust_gradients

    def run(self, batch: Batch) -> StepOutcome:
        """Train on one batch. Out of memory leaves weights and optimizer as they were; call `drop` and try again."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._add_gradients(batch.split(self.micro_batch))
        loss = sum_over_ranks(loss) if self._world_size > 1 else loss
        return StepOutcome(loss, self._move(loss))

    def drop(self) -> None:
        """Forget the gradients of a step that was not finished."""
        self.optimizer.zero_grad(set_to_none=True)

    def score(self, network: nn.Module, batch: Batch) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return a network's full-resolution logits of each part, and the loss of this rank's part of the batch."""
        parts = batch.split(self.micro_batch)
        whole = self._measure_whole(parts, network)
        logits, total = [], torch.zeros((), device=batch.data.device)
        for part in parts:
            outputs = self._run(network, part)
            total = total + self.loss(outputs, part.targets, whole, marked=self.find_marked(part))
            logits.append(outputs[0])
        return logits, total

    def find_marked(self, batch: Batch) -> torch.Tensor | None:
        """Return which outputs are marked in which sample, `(sample, output)`; None where all are."""
        return None if self._sample_marks is None else self._sample_marks.find(batch.case_ids)

    def _add_gradients(self, parts: Sequence[Batch]) -> torch.Tensor:
        whole = self._measure_whole(parts, self.network)
        total = torch.zeros((), device=parts[0].data.device)
        for index, part in enumerate(parts):
            is_last = index == len(parts) - 1
            with nullcontext() if is_last else skip_gradient_exchange(self.network):
                total = total + self._add_part(part, whole)
        return total

    def _add_part(self, part: Batch, whole: WholeBatch | None) -> torch.Tensor:
        # A function of its own, so that nothing of this part is alive when the next one begins.
        loss = self.loss(self._run(self.network, part), part.targets, whole, marked=self.find_marked(part))
        # Gradients are averaged over ranks, the loss is a sum over them.
        goal = loss * self._world_size if self._world_size > 1 else loss
        (goal if self._scaler is None else self._scaler.scale(goal)).backward()
        return loss.detach()

    def _run(self, network: nn.Module, part: Batch) -> list[torch.Tensor]:
        return run_network(network, part.data.contiguous(memory_format=self._memory_format), self.precision)

    def _measure_whole(self, parts: Sequence[Batch], network: nn.Module) -> WholeBatch | None:
        """Return what the loss of a part needs to know of the batch it belongs to; None where it is the batch."""
        if len(parts) == 1 and self._world_size == 1:
            return None
        counts = self.loss.count(parts[0].targets, marked=self.find_marked(parts[0]))
        for part in parts[1:]:
            counts = counts + self.loss.count(part.targets, marked=self.find_marked(part))
        reduce = sum_over_ranks if self._world_size > 1 else None
        is_split = max(len(parts), -(-self._largest_share // self.micro_batch)) > 1
        needs_sums = self.loss.needs_dice_sums and is_split and not self._is_dice_per_part
        sums = self._sum_dice(parts, network) if needs_sums else None
        if reduce is not None:
            counts = counts.sum_over_ranks(reduce)
            sums = None if sums is None else sums.sum_over_ranks(reduce)
        return WholeBatch(counts=counts, dice=sums, reduce=reduce, is_dice_per_part=self._is_dice_per_part)

    @torch.no_grad()
    def _sum_dice(self, parts: Sequence[Batch], network: nn.Module) -> DiceSums:
        # Batch Dice is no sum over parts, so its sums are taken in a pass of their own: a third more work for the
        # same result as the batch in one piece.
        total: DiceSums | None = None
        for part in parts:
            sums = self.loss.sum_dice(self._run(network, part), part.targets, marked=self.find_marked(part))
            total = sums if total is None else total + sums
        if total is None:
            raise ValueError("a batch has at least one part")
        return total

    def _move(self, loss: torch.Tensor) -> torch.Tensor:
        """Clip and update. Returns 1 on the device where the step was at fault, and the weights did not move."""
        is_broken = ~torch.isfinite(loss)
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
            self._finish_gradients()
            # The scaler skips steps whose gradients are not finite; with a finite loss that is no fault.
            self._scaler.step(self.optimizer)
            self._scaler.update()
            return is_broken.float()
        is_broken = is_broken | ~torch.isfinite(self._finish_gradients())
        fault = is_broken.float()
        with skipping_where(self.optimizer, fault):
            move_weights(self.optimizer) if self._is_sharded else self.optimizer.step()
        return fault

    def _finish_gradients(self) -> torch.Tensor:
        if self._adjust_gradients is not None:
            self._adjust_gradients()
        return clip_gradients(self.optimizer)


def clip_gradients(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """Scale the gradients down to the norm that nnU-Net allows, and return their norm as it was."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    norm: torch.Tensor = nn.utils.clip_grad_norm_(weights, GRADIENT_NORM_LIMIT)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def skipping_where(optimizer: torch.optim.Optimizer, fault: torch.Tensor) -> AbstractContextManager[None]:
    """Return a block in which a fused optimizer's step moves nothing where `fault` is 1.

    The mechanism gradient scalers use: the kernel itself looks at the flag.
    """
    return _set_flag(optimizer, fault)


@contextlib.contextmanager
def _set_flag(optimizer: Any, fault: torch.Tensor) -> Any:
    optimizer.found_inf, optimizer.grad_scale = fault, None
    try:
        yield
    finally:
        del optimizer.found_inf, optimizer.grad_scale


def open_autocast(precision: str, device: torch.device) -> Any:
    """Return the context in which the network runs; fp32 needs none."""
    dtype = _AUTOCAST_DTYPES.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def run_network(network: nn.Module, data: torch.Tensor, precision: str) -> list[torch.Tensor]:
    """Return the network's logits, one tensor per level, in the precision it ran in."""
    with open_autocast(precision, data.device):
        outputs = network(data)
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
