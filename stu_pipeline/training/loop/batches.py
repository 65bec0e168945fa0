"""Where batches come from: our loader and augmentation, or nnU-Net's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from stu_pipeline.training.augmentation.pipeline import Augmenter
from stu_pipeline.training.loop.batch import Batch
from stu_pipeline.training.sampling.loader import SampleLoader


class DeviceBatches:
    """Samples from the loader, augmented on the device that trains.

    Args:
        loader: gives the samples of this rank, in order.
        augmenter: makes a batch of them.
    """

    def __init__(self, loader: SampleLoader, augmenter: Augmenter) -> None:
        self._loader = loader
        self._augmenter = augmenter
        self.waited_s = 0.0
        """Seconds waited for the loader since `take_waited_s`."""

    def take(self, step: int, *, while_waiting: Callable[[], None] | None = None) -> Batch:
        """Return the batch of a step, counted from the start of the training; steps are asked for in order.

        Args:
            step: which one.
            while_waiting: called from time to time while samples are not there yet; what it raises ends the wait,
                and the step can be asked for again.
        """
        start = time.monotonic()
        samples = self._loader.take(step, while_waiting=while_waiting)
        self.waited_s += time.monotonic() - start
        return self._augmenter(samples)

    def take_waited_s(self) -> float:
        """Return the seconds waited, and start to count anew."""
        waited, self.waited_s = self.waited_s, 0.0
        return waited

    def close(self) -> None:
        """End the loader's processes."""
        self._loader.close()


class EngineBatches:
    """Batches of nnU-Net's own loader, augmented on the CPU in its processes.

    They are random, not a function of the step: a training that continues sees others.

    Args:
        loader: one of nnU-Net's loaders; whoever opened it closes it.
        device: where the batches go.
    """

    def __init__(self, loader: Any, device: torch.device) -> None:
        self._loader = loader
        self._device = device
        self.waited_s = 0.0

    def take(self, step: int, *, while_waiting: Callable[[], None] | None = None) -> Batch:
        """Return the next batch, whatever the step."""
        start = time.monotonic()
        batch = next(self._loader)
        self.waited_s += time.monotonic() - start
        targets = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
        return Batch(
            data=batch["data"].to(self._device, non_blocking=True),
            targets=[target.to(self._device, non_blocking=True) for target in targets],
            case_ids=tuple(map(str, batch["keys"])),
        )

    def take_waited_s(self) -> float:
        """Return the seconds waited, and start to count anew."""
        waited, self.waited_s = self.waited_s, 0.0
        return waited

    def close(self) -> None:
        """Leave the loader to the trainer."""
