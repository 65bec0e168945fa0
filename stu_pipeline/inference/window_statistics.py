"""What a window saved by leaving sure tiles alone, and what that can have changed at most."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

CONFIDENCE = 0.95
_BISECTIONS = 60


@dataclass(slots=True, kw_only=True)
class WindowStatistics:
    """Counts of one case or of many; the window fills them while it is iterated, a group of tiles at a time.

    A pass is one network on one copy of one tile. Passes that were repeated, for want of memory or in float32, count
    once.
    """

    passes_run: int = 0
    passes_full: int = 0
    """What all networks on all copies of all tiles would have been."""
    tiles: int = 0
    tiles_skipped: int = 0
    """Sure tiles that were left with fewer passes."""
    tiles_audited: int = 0
    """Sure tiles that got all passes anyway."""
    tiles_changed: int = 0
    """Audited tiles of which at least one voxel has another label after all passes."""
    changed_shares: float = 0.0
    """Sum over the audited tiles of the share of their voxels with another label after all passes."""
    tiles_by_stage: dict[str, int] = field(default_factory=dict)
    """How many tiles each stage was run on, in the order of the stages."""

    def add(self, other: WindowStatistics) -> None:
        """Add the counts of more tiles or of another case."""
        self.passes_run += other.passes_run
        self.passes_full += other.passes_full
        self.tiles += other.tiles
        self.tiles_skipped += other.tiles_skipped
        self.tiles_audited += other.tiles_audited
        self.tiles_changed += other.tiles_changed
        self.changed_shares += other.changed_shares
        for name, count in other.tiles_by_stage.items():
            self.tiles_by_stage[name] = self.tiles_by_stage.get(name, 0) + count

    @property
    def passes_share(self) -> float:
        """Passes run over all possible ones; 1 where there were none."""
        return self.passes_run / self.passes_full if self.passes_full else 1.0

    @property
    def changed_share(self) -> float | None:
        """Mean share of changed voxels of the audited tiles; None without any."""
        return self.changed_shares / self.tiles_audited if self.tiles_audited else None

    @property
    def changed_share_bound(self) -> float:
        """Upper bound, at 95 % confidence, on the mean share of voxels in sure tiles that all passes would change.

        It is the Chernoff-Hoeffding bound (Hoeffding 1963, theorems 1 and 4) on the shares of the audited tiles, which
        are a random sample of the sure ones: nothing is assumed about the tiles, and overlapping ones may depend on
        each other. It is about voxels of tiles before overlapping tiles are averaged. Without audited tiles it is 1,
        or 0 where no tile was sure.
        """
        if not self.tiles_skipped and not self.tiles_audited:
            return 0.0
        return bound_mean(self.changed_share or 0.0, self.tiles_audited)


def bound_mean(mean: float, count: int, confidence: float = CONFIDENCE) -> float:
    """Bound the expectation of numbers between 0 and 1 from above by the mean of `count` independent ones.

    The bound is the largest `q` with `count * KL(mean, q) <= log(1 / (1 - confidence))`; without numbers it is 1.

    >>> round(bound_mean(0.0, 100), 4)
    0.0295
    """
    if count == 0 or mean >= 1:
        return 1.0
    limit = -math.log1p(-confidence) / count
    low, high = mean, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle < 1 and _divergence(mean, middle) <= limit:
            low = middle
        else:
            high = middle
    return high


def _divergence(mean: float, other: float) -> float:
    """Kullback-Leibler divergence of two coins; `0 <= mean <= other < 1` and `mean < 1`."""
    divergence = (1 - mean) * math.log((1 - mean) / (1 - other))
    return divergence + (mean * math.log(mean / other) if mean > 0 else 0.0)
