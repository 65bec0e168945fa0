"""Whether an average of weights is kept. Pure: scores in, a decision out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stu_pipeline.evaluation.statistics import bootstrap_interval
from stu_pipeline.study.averaging.config import Member


def choose_average(members: Sequence[Member], *, seed: int = 0) -> tuple[Member | None, str]:
    """Choose the average to keep: no worse than the best single fold, and surely better than a fold on average.

    The best fold is known only after the held-out cases were looked at, so its mean is flattered; a fold on average is
    what a user would have had without looking. Of two averages the better one is judged.

    Args:
        members: single folds and averages, scored on the same cases.
        seed: of the bootstrap.

    Returns:
        The average, or None; and a sentence why.
    """
    singles = [member for member in members if not member.is_candidate]
    candidates = [member for member in members if member.is_candidate]
    best_single = max(singles, key=lambda member: member.mean_dice)
    best = max(candidates, key=lambda member: member.mean_dice)
    typical = np.mean([member.scores for member in singles], axis=0)
    gains = np.array(best.scores) - typical
    interval = bootstrap_interval(gains[:, np.newaxis], seed=seed)
    shown = f"{best.name}: Dice {best.mean_dice:.4f}, best fold {best_single.mean_dice:.4f} ({best_single.name})"
    if interval is None:
        return None, f"{shown}; not kept, one case proves nothing"
    low, high = interval
    against = f"against a fold on average {gains.mean():+.4f} (95 % interval {low:+.4f} to {high:+.4f})"
    if best.mean_dice < best_single.mean_dice:
        return None, f"{shown}, {against}; not kept, a single fold is better"
    if low <= 0:
        return None, f"{shown}, {against}; not kept, that may be chance"
    return best, f"{shown}, {against}; kept"
