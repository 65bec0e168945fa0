"""Choose the folds of a cross-validation: how many, what stays together, and how labels are spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from stu_pipeline.datasets.splits.balance import Group, count_unreached, deal_groups
from stu_pipeline.datasets.splits.files import NUM_FOLDS, SEED, Split, make_splits
from stu_pipeline.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRequest:
    """What is asked of the folds. Nothing asked for gives nnU-Net's default split."""

    num_folds: int | None = None
    """None: five, or as many as there are cases (groups) when they are fewer."""
    group_by: str | None = None
    """A pattern or a table, as in `read_groups`; None: every case stands alone."""
    stratify: bool = False
    """Spread every label over the folds, rare ones first."""

    def __post_init__(self) -> None:  # noqa: D105
        if self.num_folds is not None and self.num_folds < 2:
            raise UsageError(f"folds must be at least 2, got {self.num_folds}", hint="--folds 5")
        if self.group_by is not None and not self.group_by.strip():
            raise UsageError("--group-by is empty", hint="--group-by '^([^_]+)'")

    @property
    def is_default(self) -> bool:
        """Nothing in particular is asked for."""
        return self == SplitRequest()

    def describe(self) -> str:
        """Name the flags that make this request; empty for the default."""
        flags = [
            f"--folds {self.num_folds}" if self.num_folds is not None else "",
            f"--group-by '{self.group_by}'" if self.group_by is not None else "",
            "--stratify" if self.stratify else "",
        ]
        return " ".join(flag for flag in flags if flag)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitChoice:
    """The folds, how they came about, and what could not be had."""

    splits: list[Split]
    method: str
    notes: tuple[str, ...] = ()


def choose_splits(
    case_ids: Sequence[str],
    request: SplitRequest,
    *,
    groups: Mapping[str, str] | None = None,
    labels: Mapping[str, Collection[int]] | None = None,
) -> SplitChoice:
    """Choose the folds. The same cases, groups and labels give the same folds, in whatever order they come.

    Where grouping makes no difference the folds are nnU-Net's: with one case per group and no stratification.

    Args:
        case_ids: all cases.
        request: what is asked for.
        groups: group by case, when `request.group_by` is set.
        labels: foreground labels by case, when `request.stratify` is set; cases without an entry have none.

    Raises:
        DataError: no case, or an id twice.
        UsageError: more folds than cases (groups), or all cases in one group.
    """
    together = {case: case if groups is None else groups[case] for case in sorted(case_ids)}
    unit = "case" if groups is None else "group"
    sizes = Counter(together.values())
    num_folds = _choose_num_folds(request, sizes, unit)
    notes = []
    if request.num_folds is None and len(sizes) < NUM_FOLDS:
        notes.append(_describe_few(sizes, unit))
    if len(sizes) == len(together) and not request.stratify:
        splits = make_splits(case_ids, num_folds)
    else:
        make_splits(case_ids, num_folds)  # refuses no cases and double ones
        present = labels if request.stratify and labels is not None else {}
        members = _join_groups(together, present)
        dealt = deal_groups(members, num_folds, seed=SEED)
        splits = _collect_folds(together, dealt, num_folds)
        notes += _describe_unreached(count_unreached(members, dealt, num_folds))
    return SplitChoice(splits=splits, method=_describe_method(request, len(splits), sizes, unit), notes=tuple(notes))


def _choose_num_folds(request: SplitRequest, sizes: Counter[str], unit: str) -> int:
    num_units, wanted = len(sizes), request.num_folds
    if num_units == 1 and sum(sizes.values()) > 1:
        raise UsageError(
            f"all {sum(sizes.values())} cases are of one group, '{next(iter(sizes))}', so no fold can train without it",
            hint="check --group-by; without it every case stands alone",
        )
    if wanted is not None and wanted > num_units:
        largest = f"from 2 to {num_units} folds" if num_units > 1 else f"at least 2 {unit}s"
        raise UsageError(
            f"{wanted} folds cannot be made of {num_units} {unit}{'s' * (num_units != 1)}, expected {largest}",
            hint=f"--folds {num_units}" if num_units > 1 else "leave --folds out",
        )
    return min(NUM_FOLDS, num_units) if wanted is None else wanted


def _join_groups(together: Mapping[str, str], labels: Mapping[str, Collection[int]]) -> list[Group]:
    members: dict[str, list[str]] = {}
    for case, group in together.items():
        members.setdefault(group, []).append(case)
    return [
        Group(
            name=name,
            num_cases=len(cases),
            labels=frozenset(int(label) for case in cases for label in labels.get(case, ())),
        )
        for name, cases in sorted(members.items())
    ]


def _collect_folds(together: Mapping[str, str], dealt: Mapping[str, int], num_folds: int) -> list[Split]:
    return [
        Split(
            train=[case for case, group in together.items() if dealt[group] != fold],
            val=[case for case, group in together.items() if dealt[group] == fold],
        )
        for fold in range(num_folds)
    ]


def _describe_few(sizes: Counter[str], unit: str) -> str:
    if len(sizes) == 1:
        return f"only one case, '{next(iter(sizes))}': it is used for training and validation, so scores mean little"
    return f"only {len(sizes)} {unit}s, so there are {len(sizes)} folds, each leaving one {unit} out"


def _describe_unreached(unreached: Mapping[int, int]) -> list[str]:
    if not unreached:
        return []
    names = ", ".join(str(label) for label in unreached)
    return [f"no deal was found in which these labels reach as many folds as they could: {names}"]


def _describe_method(request: SplitRequest, num_folds: int, sizes: Counter[str], unit: str) -> str:
    if request.is_default and len(sizes) >= NUM_FOLDS:
        return f"{num_folds} folds of {len(sizes)} cases, nnU-Net's default"
    parts = [
        f"{num_folds} fold{'s' * (num_folds != 1)} of {sum(sizes.values())} case{'s' * (sum(sizes.values()) != 1)}"
    ]
    if unit == "group":
        parts.append(f"{len(sizes)} groups kept together ({request.group_by})")
    if request.stratify:
        parts.append("labels spread evenly")
    return ", ".join(parts)
