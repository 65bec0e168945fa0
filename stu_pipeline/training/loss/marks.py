"""Which outputs enter the loss of which sample, on the device that trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stu_pipeline.datasets.marked_outputs import MarkedOutputs


class SampleMarks:
    """The marked outputs of samples, by their case. Asking for them does not wait for the device.

    Args:
        marked: of the cases that are trained on and validated.
        device: where the loss is computed.
    """

    def __init__(self, marked: MarkedOutputs, device: torch.device) -> None:
        self._rows = {name: torch.tensor(flags, device=device) for name, flags in marked.sources.items()}
        self._cases = marked.cases

    def find(self, case_ids: Sequence[str]) -> Tensor:
        """Return `(sample, output)`, true where the output is marked in the case of the sample."""
        return torch.stack([self._rows[self._cases[case_id]] for case_id in case_ids])
