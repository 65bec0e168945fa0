"""Deal groups of cases out to folds, so that every fold gets its share of every label.

The greedy rule is iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011): the rarest label first, each of
its groups to the fold that still misses most of that label. Being greedy it leaves gaps where labels come
together, which swapping two groups often closes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

# A deal can fail where another one works: this many are tried before the best is taken.
_MAX_DEALS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Cases that stay together."""

    name: str
    num_cases: int
    labels: frozenset[int] = frozenset()
    """Labels to be spread over the folds; empty when labels do not matter."""


@dataclass(slots=True)
class _Table:
    """The folds while groups are dealt out."""

    num_folds: int
    num_groups: int
    shares: dict[int, float]
    """Per label: how many of its groups each fold should get."""
    dealt: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.groups_in = [0] * self.num_folds
        self.cases_in = [0] * self.num_folds
        self.wanted = [dict(self.shares) for _ in range(self.num_folds)]

    groups_in: list[int] = field(init=False)
    cases_in: list[int] = field(init=False)
    wanted: list[dict[int, float]] = field(init=False)

    def place(self, group: Group, label: int | None) -> None:
        """Give a group to the open fold that misses most of `label`, then has the fewest cases."""
        fold = min(
            self._list_open(),
            key=lambda fold: (0.0 if label is None else -self.wanted[fold][label], self.cases_in[fold], fold),
        )
        self.dealt[group.name] = fold
        self.groups_in[fold] += 1
        self.cases_in[fold] += group.num_cases
        for value in group.labels:
            self.wanted[fold][value] -= 1

    def _list_open(self) -> list[int]:
        # The numbers of groups may differ by one: so many folds, and no more, get one above the common number.
        common, num_larger = divmod(self.num_groups, self.num_folds)
        can_grow = sum(count > common for count in self.groups_in) < num_larger
        return [fold for fold, count in enumerate(self.groups_in) if count < common or (count == common and can_grow)]


def deal_groups(groups: Sequence[Group], num_folds: int, *, seed: int) -> dict[str, int]:
    """Choose the fold that each group validates.

    The numbers of groups per fold differ by at most one. Each label reaches as many folds as it has groups, all
    of them if it can: labels may exclude each other, so the best of several deals is taken and
    `count_unreached` tells what is left.

    Args:
        groups: their names differ. Their order does not matter.
        num_folds: at least 2, at most as many as there are groups.
        seed: the same seed deals the same way on every machine.

    Returns:
        Fold by group name.
    """
    ordered = sorted(groups, key=lambda group: group.name)
    best: tuple[tuple[int, int], dict[str, int]] | None = None
    for attempt in range(_MAX_DEALS):
        # The legacy generator: its streams are frozen for all versions of NumPy.
        order = np.random.RandomState(seed + attempt).permutation(len(ordered))
        shuffled = [ordered[index] for index in order]
        dealt = _close_gaps(shuffled, _deal_once(shuffled, num_folds), num_folds)
        unreached = sum(count_unreached(ordered, dealt, num_folds).values())
        spread = _measure_spread(ordered, dealt, num_folds)
        if best is None or (unreached, spread) < best[0]:
            best = (unreached, spread), dealt
        if unreached == 0 and spread <= max(group.num_cases for group in ordered):
            break
    return {group.name: best[1][group.name] for group in ordered} if best else {}


def count_unreached(groups: Sequence[Group], dealt: dict[str, int], num_folds: int) -> dict[int, int]:
    """Count, per label, the folds it should reach and does not: it can reach as many as it has groups."""
    folds: dict[int, list[int]] = {}
    for group in groups:
        for label in group.labels:
            folds.setdefault(label, []).append(dealt[group.name])
    short = {label: min(len(places), num_folds) - len(set(places)) for label, places in folds.items()}
    return {label: count for label, count in sorted(short.items()) if count}


def _deal_once(groups: Sequence[Group], num_folds: int) -> dict[str, int]:
    counts = Counter(label for group in groups for label in group.labels)
    table = _Table(num_folds, len(groups), {label: count / num_folds for label, count in counts.items()})
    # Large groups first: what comes late can no longer even out the cases. The sort keeps the shuffled order of equals.
    waiting = sorted(groups, key=lambda group: -group.num_cases)
    while left := Counter(label for group in waiting for label in group.labels):
        rarest = min(left, key=lambda label: (left[label], label))
        for group in waiting:
            if rarest in group.labels:
                table.place(group, rarest)
        waiting = [group for group in waiting if rarest not in group.labels]
    for group in waiting:
        table.place(group, None)
    return table.dealt


def _close_gaps(groups: Sequence[Group], dealt: dict[str, int], num_folds: int) -> dict[str, int]:
    """Swap groups between folds while that makes a label reach a further fold."""
    labels = sorted({label for group in groups for label in group.labels})
    has = np.array([[label in group.labels for label in labels] for group in groups], dtype=np.int64)
    places = np.array([dealt[group.name] for group in groups])
    counts = np.array([has[places == fold].sum(axis=0) for fold in range(num_folds)])
    while swap := _find_swap(has, places, counts):
        first, second = swap
        counts[places[first]] += has[second] - has[first]
        counts[places[second]] += has[first] - has[second]
        places[[first, second]] = places[[second, first]]
    return {group.name: int(place) for group, place in zip(groups, places, strict=True)}


def _find_swap(
    has: npt.NDArray[np.int64], places: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> tuple[int, int] | None:
    """Find two groups whose swap fills more `(fold, label)` entries of `counts` than it empties."""
    for fold, label in np.argwhere((counts == 0) & (counts.max(axis=0) > 1)):
        inside = np.flatnonzero(places == fold)
        for group in np.flatnonzero(has[:, label] & (counts[places, label] > 1)):
            other = counts[places[group]]
            arriving = has[group] - has[inside]
            filled = ((counts[fold] + arriving) > 0).sum(axis=1) + ((other - arriving) > 0).sum(axis=1)
            best = int(filled.argmax())
            if filled[best] > (counts[fold] > 0).sum() + (other > 0).sum():
                return int(group), int(inside[best])
    return None


def _measure_spread(groups: Sequence[Group], dealt: dict[str, int], num_folds: int) -> int:
    cases_in = [0] * num_folds
    for group in groups:
        cases_in[dealt[group.name]] += group.num_cases
    return max(cases_in) - min(cases_in)
