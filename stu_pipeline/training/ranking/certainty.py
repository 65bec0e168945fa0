"""How sure an order of candidates is, from scores of the same cases. Pure: arrays in, numbers out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stu_pipeline.training.ranking.config import SCRATCH, RankRow

_NUM_DRAWS = 5000
_SURE = 0.95
_TAIL = 2.5


def rank_candidates(
    names: tuple[str, ...], scales: tuple[str, ...], scores: NDArray[np.float64], *, seed: int = 0
) -> tuple[RankRow, ...]:
    """Order candidates by their mean score, with what redrawing the cases says about the order.

    Args:
        names: one per candidate.
        scales: one per candidate.
        scores: `(candidate, case)`, finite; at least one case.
        seed: of the drawing.

    Returns:
        One row per candidate, best first; of equal ones the earlier.
    """
    means = scores.mean(axis=1)
    order = sorted(range(len(names)), key=lambda place: (-means[place], place))
    best = order[0]
    num_cases = scores.shape[1]
    draws = np.random.default_rng(seed).integers(num_cases, size=(_NUM_DRAWS, num_cases))
    redrawn = scores[:, draws].mean(axis=2)  # (candidate, draw)
    # Of equal ones the earlier in the order comes first, as above.
    winners = np.array(order)[np.argmax(redrawn[order], axis=0)]
    rows = []
    for place in order:
        low, high = np.percentile(redrawn[place] - redrawn[best], (_TAIL, 100 - _TAIL))
        rows.append(
            RankRow(
                name=names[place],
                scale=scales[place],
                score=float(means[place]),
                difference=float(means[place] - means[best]),
                ci_low=float(low),
                ci_high=float(high),
                chance_best=float((winners == place).mean()),
                scores=tuple(float(score) for score in scores[place]),
            )
        )
    return tuple(rows)


def write_verdict(rows: tuple[RankRow, ...]) -> str:
    """Say in one sentence what the order is worth."""
    best, others = rows[0], rows[1:]
    rivals = [row.name for row in others if row.ci_high >= 0]
    scratch = next((row for row in others if row.name == SCRATCH), None)
    if best.name == SCRATCH:
        return "no candidate sees more of these labels than untrained weights do: train from scratch"
    if scratch is not None and scratch.ci_high >= 0:
        return f"'{best.name}' comes first, but these cases do not tell it from untrained weights"
    if not rivals:
        return f"'{best.name}' is best, also when the cases are drawn again ({best.chance_best:.0%} of the draws)"
    names = ", ".join(f"'{name}'" for name in rivals)
    sure = "likely" if best.chance_best >= _SURE else "not sure"
    return f"'{best.name}' comes first ({sure}, {best.chance_best:.0%} of the draws); not told apart from it: {names}"
