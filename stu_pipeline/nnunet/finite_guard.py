"""Keep losses that are not finite away from the optimizer, and stop when they do not go away."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from stu_pipeline.errors import NonFiniteError

_log = logging.getLogger("stu_pipeline.training")
MAX_IN_A_ROW = 3


class FiniteGuard:
    """Counts the steps of an epoch that were skipped.

    Args:
        folder: the run folder, for messages.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._num_in_a_row = 0
        self._num_skipped = 0

    def accept(self, loss: float, *, batch: dict[str, Any], epoch: int) -> bool:
        """Tell whether a step with this loss may reach the optimizer.

        Raises:
            NonFiniteError: the third loss in a row that is not finite; the cases are named.
        """
        if math.isfinite(loss):
            self._num_in_a_row = 0
            return True
        self._num_in_a_row += 1
        self._num_skipped += 1
        cases = ", ".join(sorted({str(key) for key in batch.get("keys", [])}))
        _log.warning("loss %s at epoch %d, cases: %s; step skipped", loss, epoch, cases)
        if self._num_in_a_row >= MAX_IN_A_ROW:
            raise NonFiniteError(
                f"loss was not finite {MAX_IN_A_ROW} times in a row at epoch {epoch}, last cases: {cases}",
                where=self._folder,
                hint="check these cases, or lower --lr; the last checkpoint is intact",
            )
        return False

    def note_skipped(self) -> None:
        """Count a step that was skipped for its gradients."""
        self._num_skipped += 1

    def take_num_skipped(self) -> int:
        """Return how many steps were skipped since the last call, and start again."""
        skipped, self._num_skipped = self._num_skipped, 0
        return skipped
