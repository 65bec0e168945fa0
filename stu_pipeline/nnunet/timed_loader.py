"""A loader that knows how long the training waited for it, and ends its processes."""

from __future__ import annotations

import time
from typing import Any

from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter


class TimedLoader:
    """Pass batches through and add up the time spent waiting for them.

    Args:
        loader: one of nnU-Net's loaders.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._waited_s = 0.0

    def __next__(self) -> Any:
        """Return the next batch."""
        start = time.monotonic()
        batch = next(self.loader)
        self._waited_s += time.monotonic() - start
        return batch

    def take_waited_s(self) -> float:
        """Return the seconds waited since the last call, and start again."""
        waited, self._waited_s = self._waited_s, 0.0
        return waited

    def close(self) -> None:
        """Stop the loader's processes; a loader without processes has nothing to stop."""
        if isinstance(self.loader, NonDetMultiThreadedAugmenter):
            self.loader._finish()  # its only way to stop
