"""The account of an epoch's steps: losses, and steps that did not count. Read from the device one step late.

Reading a number of the step that runs now would make the host wait and leave the device idle afterwards; a step
later it is there already.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stu_pipeline.errors import NonFiniteError
from stu_pipeline.training.loop.step import StepOutcome

MAX_FAULTS_IN_A_ROW = 3
_MAX_CASES = 12
_log = logging.getLogger("stu_pipeline.training")


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    numbers: torch.Tensor
    event: torch.cuda.Event | None
    case_ids: Sequence[str]
    epoch: int
    step: int

    def read(self) -> list[float]:
        if self.event is not None:
            self.event.synchronize()
        values: list[float] = self.numbers.tolist()
        return values


class StepLedger:
    """Adds up the steps of one epoch.

    Args:
        folder: the run folder, for messages.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pending: deque[_Pending] = deque()
        self._num_faults_in_a_row = 0
        self.losses: list[float] = []
        """Losses of the steps that counted, in order."""
        self.num_skipped = 0
        self.last_loss: float | None = None

    def begin_epoch(self, losses: Sequence[float] = (), *, num_skipped: int = 0) -> None:
        """Forget the last epoch; continue one that was interrupted with what it had."""
        self.losses = list(losses)
        self.num_skipped = num_skipped
        self.last_loss = None

    def add(
        self, outcome: StepOutcome, flags: torch.Tensor, *, batch_cases: Sequence[str], epoch: int, step: int
    ) -> list[float] | None:
        """Take down a step, and read the one before it.

        Args:
            outcome: what the step came to.
            flags: further numbers to carry along, `(n,)` on the same device.
            batch_cases: whose samples it saw.
            epoch: its epoch.
            step: its place in the epoch.

        Returns:
            The flags of the step before, or None where there was none.

        Raises:
            NonFiniteError: the third fault in a row; the cases are named.
        """
        numbers = torch.cat([torch.stack([outcome.loss.detach().float(), outcome.is_fault]), flags])
        event = None
        if numbers.device.type == "cuda":
            numbers = numbers.to("cpu", non_blocking=True)  # into pinned memory
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._pending.append(_Pending(numbers, event, tuple(batch_cases), epoch, step))
        # On the CPU the step is over when it returns.
        return self._read_until(0 if event is None else 1)

    def settle(self) -> list[float] | None:
        """Read all steps that are still out. Waits for the device."""
        return self._read_until(0)

    def forget_pending(self) -> None:
        """Drop what was not read yet."""
        self._pending.clear()

    @property
    def mean_loss(self) -> float:
        """Mean loss of the steps that counted; NaN where none did."""
        return math.fsum(self.losses) / len(self.losses) if self.losses else math.nan

    def _read_until(self, num_left: int) -> list[float] | None:
        flags = None
        while len(self._pending) > num_left:
            pending = self._pending.popleft()
            loss, fault, *rest = pending.read()
            flags = rest if flags is None else [max(pair) for pair in zip(flags, rest, strict=True)]
            self._count(pending, loss, is_fault=fault > 0)
        return flags

    def _count(self, pending: _Pending, loss: float, *, is_fault: bool) -> None:
        if not is_fault:
            self._num_faults_in_a_row = 0
            self.last_loss = loss
            self.losses.append(loss)
            return
        self._num_faults_in_a_row += 1
        self.num_skipped += 1
        cases = name_cases(pending.case_ids)
        what = f"loss {loss}" if not math.isfinite(loss) else "gradients that are not finite"
        _log.warning("%s at epoch %d, step %d, cases: %s; step skipped", what, pending.epoch, pending.step, cases)
        if self._num_faults_in_a_row >= MAX_FAULTS_IN_A_ROW:
            raise NonFiniteError(
                f"loss or gradients were not finite {MAX_FAULTS_IN_A_ROW} times in a row at epoch {pending.epoch}, "
                f"last cases: {cases}",
                where=self._folder,
                hint="check these cases, or lower --lr; the last finite state is saved",
            )


def name_cases(case_ids: Sequence[str]) -> str:
    """List case ids for a message, each once; many are cut short."""
    names = sorted(set(case_ids))
    more = f" and {len(names) - _MAX_CASES} more" if len(names) > _MAX_CASES else ""
    return ", ".join(names[:_MAX_CASES]) + more
