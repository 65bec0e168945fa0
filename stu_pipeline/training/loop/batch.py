"""A batch on the device that trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stu_pipeline.training.sampling.sample import SampleKey


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Batch:
    """Samples that are trained on together."""

    data: torch.Tensor
    """`(sample, channel, *spatial)`, float32."""
    targets: list[torch.Tensor]
    """Label maps `(sample, 1, *spatial)` or region maps `(sample, region, *spatial)`, full resolution first."""
    keys: Sequence[SampleKey] = ()
    case_ids: Sequence[str] = ()

    def split(self, size: int) -> list[Batch]:
        """Return parts of at most `size` samples, as views; the last may be smaller."""
        num_samples = self.data.shape[0]
        return [
            Batch(
                data=self.data[first : first + size],
                targets=[target[first : first + size] for target in self.targets],
                keys=self.keys[first : first + size],
                case_ids=self.case_ids[first : first + size],
            )
            for first in range(0, num_samples, size)
        ]
