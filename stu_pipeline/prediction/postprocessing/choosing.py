"""Choose operations on tables of cases, and keep what helps cases that had no say in the choice.

Every group of cases (a fold) is cleaned up as the other groups would choose; these gains are tested. So the gain that
is reported is not the one that was selected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t
from scipy.stats import wilcoxon

from stu_pipeline.prediction.postprocessing.tables import NOTHING, CaseTable, Removal

Values = npt.NDArray[np.float64]

NUM_KEPT = (1, 2, 3)
MIN_SIZES_MM3 = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
CANDIDATES = (
    NOTHING,
    *(Removal(keep_largest=number) for number in NUM_KEPT),
    *(Removal(min_size_mm3=size) for size in MIN_SIZES_MM3),
)
ALPHA = 0.05
_MIN_CASES = 5
_NOTHING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When an operation is kept."""

    min_gain: float = 0.0005
    """What the mean Dice of unseen cases must gain more than."""
    max_harm: float = 0.05
    """What the Dice of no case may lose more than."""
    alpha: float = ALPHA
    """Chance that an operation is kept for a label of any number, when none helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation on one label, as chosen on all cases, and what the same way of choosing gained on unseen ones."""

    label: str
    operation: str
    """`foreground`, `remove` or `fill`."""
    removal: Removal
    gain: float
    """Mean gain in Dice over the cases, each cleaned up as the other groups chose."""
    worst: float
    """The largest loss of a case by this operation, as a negative number; of any label for the foreground."""
    worst_unseen: float
    """The same where each case is cleaned up as the other groups chose, which may be otherwise than here."""
    num_better: int
    num_worse: int
    p: float
    """The chance of such gains where the operation is worth no more than the smallest gain, see `compute_p`."""
    p_adjusted: float
    """For the number of operations that change anything."""
    is_kept: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """The gains of one operation: as chosen by the others, and as chosen on all cases."""

    label: str
    operation: str
    removal: Removal
    unseen: Values
    seen: Values
    has_effect: bool
    """Whether any candidate changes the Dice of any case."""

    @property
    def is_chosen(self) -> bool:
        """Whether it is what all cases together would choose."""
        return bool(self.seen.any())


def choose_steps(
    tables: Sequence[CaseTable], groups: Sequence[int], labels: Sequence[str], limits: Limits
) -> tuple[Step, ...]:
    """Choose what to do to the foreground, then to each label, and test it.

    Args:
        tables: one per case.
        groups: of each case; the cases of a group are cleaned up as the others choose.
        labels: names of the targets in the tables, in their order.
        limits: when an operation is kept.

    Returns:
        Every operation that was chosen, kept or not.
    """
    parts = np.asarray(groups)
    dice = [np.array([_measure_foreground(t, removal) for t in tables]) for removal in CANDIDATES]
    # The mean over labels decides; the worst label counts as the harm.
    whole = _try_candidates("foreground", "foreground", np.stack([d.mean(axis=1) for d in dice], axis=1), parts, limits)
    trials = [whole, *_try_labels(tables, parts, labels, NOTHING, limits)]
    number = max(1, sum(trial.has_effect for trial in trials))
    place = CANDIDATES.index(whole.removal)
    worst = min(0.0, float((dice[place] - dice[0]).min())) if len(tables) else 0.0
    first = _judge(whole, min(1.0, compute_p(whole.unseen, limits.min_gain) * number), worst, limits)
    if first.is_kept:
        trials[1:] = _try_labels(tables, parts, labels, first.removal, limits)
    later = [trial for trial in trials[1:] if trial.has_effect]
    share = number / (number - 1) if number > 1 else 1.0
    adjusted = _adjust([compute_p(trial.unseen, limits.min_gain) for trial in later])
    steps = [_judge(t, min(1.0, p * share), 0.0, limits) for t, p in zip(later, adjusted, strict=True) if t.is_chosen]
    return (first, *steps) if whole.is_chosen else tuple(steps)


def compute_p(gains: Values, min_gain: float = 0.0) -> float:
    """Return the chance of gains like these where the operation is worth no more than `min_gain`.

    The larger of two: of the signed-rank test (Wilcoxon), and of a t-test of the mean, as ranks do not see how
    large the few losses among many small gains are. 1 where nothing changes.

    Args:
        gains: one per case; cases where nothing changes count in the mean only.
        min_gain: what the mean must be above.

    >>> compute_p(np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5]))
    0.03125
    """
    changed = gains[gains != 0]
    excess = float(gains.mean()) - min_gain if changed.size else 0.0
    if excess <= _NOTHING or gains.size < _MIN_CASES:
        return 1.0
    return max(float(wilcoxon(changed, alternative="greater").pvalue), _compute_p_of_mean(gains, excess))


def _compute_p_of_mean(gains: Values, excess: float) -> float:
    deviation = float(gains.std(ddof=1))
    if deviation <= _NOTHING:
        return 0.0  # all cases gain the same
    return float(student_t.sf(excess * math.sqrt(gains.size) / deviation, gains.size - 1))


def _try_labels(
    tables: Sequence[CaseTable], parts: npt.NDArray[np.intp], labels: Sequence[str], foreground: Removal, limits: Limits
) -> list[_Trial]:
    """Try removals, then filling holes, on each label of a foreground that is cleaned up already."""
    masks = [table.keep_foreground(foreground) for table in tables]
    trials = []
    for index, label in enumerate(labels):
        dice = np.array([[t.measure_dice(index, m, c) for c in CANDIDATES] for t, m in zip(tables, masks, strict=True)])
        removal = _try_candidates(label, "remove", dice, parts, limits)
        filled = [
            t.measure_dice(index, m, removal.removal, fills_holes=True) for t, m in zip(tables, masks, strict=True)
        ]
        before = dice[:, CANDIDATES.index(removal.removal)]
        trials += [removal, _try_candidates(label, "fill", np.stack([before, np.array(filled)], axis=1), parts, limits)]
    return trials


def _try_candidates(label: str, operation: str, dice: Values, parts: npt.NDArray[np.intp], limits: Limits) -> _Trial:
    """Try the candidates in the columns of `dice`, `(cases, candidates)`; the first one does nothing."""
    gains = dice - dice[:, :1]
    unseen = np.zeros(len(gains))
    for part in np.unique(parts):
        own = parts == part
        if not own.all():
            unseen[own] = gains[own, _choose_column(gains[~own], limits)]
    column = _choose_column(gains, limits)
    removal = CANDIDATES[column] if operation != "fill" else NOTHING
    seen = gains[:, column]
    return _Trial(label, operation, removal, unseen, seen, has_effect=bool(gains.any()))


def _choose_column(gains: Values, limits: Limits) -> int:
    """Return the candidate with the largest mean gain that harms no case too much; ties go to the earlier one."""
    means = gains.mean(axis=0)
    means[gains.min(axis=0) < -limits.max_harm] = -math.inf
    best = int(np.argmax(means))
    return best if means[best] > limits.min_gain else 0


def _judge(trial: _Trial, p_adjusted: float, worst: float, limits: Limits) -> Step:
    gain = float(trial.unseen.mean()) if trial.unseen.size else 0.0
    worst = min(worst, float(trial.seen.min(initial=0.0)))
    return Step(
        label=trial.label,
        operation=trial.operation,
        removal=trial.removal,
        gain=gain,
        worst=worst,
        worst_unseen=float(trial.unseen.min(initial=0.0)),
        num_better=int((trial.unseen > 0).sum()),
        num_worse=int((trial.unseen < 0).sum()),
        p=compute_p(trial.unseen, limits.min_gain),
        p_adjusted=p_adjusted,
        is_kept=trial.is_chosen and p_adjusted <= limits.alpha and gain > limits.min_gain and worst >= -limits.max_harm,
    )


def _adjust(values: Sequence[float]) -> list[float]:
    """Adjust p values for their number (Holm)."""
    order = np.argsort(values, kind="stable")
    adjusted = [0.0] * len(values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, values[index] * (len(values) - rank)))
        adjusted[index] = highest
    return adjusted


def _measure_foreground(table: CaseTable, removal: Removal) -> Values:
    kept = table.keep_foreground(removal)
    return np.array([table.measure_dice(index, kept, NOTHING) for index in range(len(table.targets))])
