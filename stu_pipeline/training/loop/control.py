"""What happens to a running training from outside: stop, save, and the clock that asks for checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stu_pipeline.training.run.signals import SignalFlags


@dataclass(frozen=True, slots=True)
class Orders:
    """What to do after a step. With several ranks all of them follow the same orders."""

    stop_signal: int = 0
    """Number of the signal that asked for the end; 0 for none."""
    is_save_due: bool = False

    def to_numbers(self) -> list[float]:
        """Return a form of which the largest over all ranks is taken."""
        return [float(self.stop_signal), float(self.is_save_due)]

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> Orders:
        """Read what `to_numbers` gave."""
        return cls(int(numbers[0]), numbers[1] > 0)


class RunControl:
    """Reads signals and the clock.

    Args:
        flags: what signals asked for.
        interval_s: longest time between checkpoints; 0 asks for one after every step.
        clock: seconds.
    """

    def __init__(self, flags: SignalFlags, *, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._flags = flags
        self._interval_s = interval_s
        self._clock = clock
        self._saved_s = clock()

    def read_orders(self) -> Orders:
        """Return what this process wants now."""
        is_due = self._flags.wants_save or self._clock() - self._saved_s >= self._interval_s
        return Orders(self._flags.stop_signal or 0, is_due)

    def note_saved(self) -> None:
        """A checkpoint is durable: the clock starts again, and SIGUSR1 is answered."""
        self._flags.wants_save = False
        self._saved_s = self._clock()
