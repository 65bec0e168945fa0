"""Bring runs onto the same cases and labels, and refuse what cannot be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stu_pipeline.errors import DataError
from stu_pipeline.evaluation.comparison.runs import EvaluatedRun, LabelScore

_NAMES_SHOWN = 5
_MAX_DETAILS = 20
_NOTHING = LabelScore(value=float("nan"), num_reference=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedScores:
    """One metric of several runs on the same cases and labels."""

    values: NDArray[np.float64]
    """`(runs, cases, labels)`; NaN = nothing to measure, infinite = exactly one of the two maps is empty."""
    cases: tuple[str, ...]
    labels: tuple[str, ...]
    left_out: tuple[str, ...]
    """What only some runs have, in words."""


def match_runs(runs: Sequence[EvaluatedRun], names: Sequence[str], *, metric: str, common: bool) -> MatchedScores:
    """Match cases and labels by name, and check that all runs were scored against the same references.

    Labels are matched by their name where every run names them, else by their key in the summary.

    Args:
        runs: two or more.
        names: what they are called, for messages.
        metric: the metric that was read; NSD needs one tolerance.
        common: leave out what only some runs have.

    Raises:
        DataError: other cases, other labels (unless `common`), nothing in common, other references, other tolerances.
    """
    _require_one_tolerance(runs, names, metric)
    cases, lost_cases = _intersect([list(run.scores) for run in runs], names, what="case")
    tables = _name_labels(runs)
    labels, lost_labels = _intersect([list(table) for table in tables], names, what="label")
    left_out = (*lost_cases, *lost_labels)
    if left_out and not common:
        raise DataError(
            "the runs do not have the same " + " and ".join(_list_kinds(lost_cases, lost_labels)),
            details=left_out,
            hint="compare what they share with --common",
        )
    cases = tuple(sorted(cases))
    if not cases or not labels:
        raise DataError(f"the runs share no {'label' if cases else 'case'}", details=left_out)
    scores = [
        [[run.scores[case].get(table[label], _NOTHING) for label in labels] for case in cases]
        for run, table in zip(runs, tables, strict=True)
    ]
    _require_same_references(scores, cases, names)
    values = np.array([[[score.value for score in row] for row in run] for run in scores], dtype=np.float64)
    return MatchedScores(values=values, cases=cases, labels=labels, left_out=left_out)


def _require_one_tolerance(runs: Sequence[EvaluatedRun], names: Sequence[str], metric: str) -> None:
    found = {run.tolerance_mm for run in runs} - {None}
    if metric == "NSD" and len(found) > 1:
        raise DataError(
            "the runs were scored with different tolerances",
            details=tuple(f"{name}: {run.tolerance_mm} mm" for name, run in zip(names, runs, strict=True)),
            hint="stu evaluate -r REFERENCE -p PREDICTION --tolerance 1",
        )


def _name_labels(runs: Sequence[EvaluatedRun]) -> list[dict[str, str]]:
    """Map the name of each label to its key, per run."""
    tables = []
    for run in runs:
        known = run.label_names or {}
        table = {known.get(key, key): key for key in run.label_keys}
        is_named = len(table) == len(run.label_keys) and all(key in known for key in run.label_keys)
        tables.append(table if is_named else {})
    if all(tables):
        return tables
    return [{key: key for key in run.label_keys} for run in runs]


def _intersect(
    lists: Sequence[Sequence[str]], names: Sequence[str], *, what: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what all lists hold, in the order of the first, and one line per run about what the others lack."""
    shared = set(lists[0]).intersection(*lists[1:])
    lines = []
    for name, items in zip(names, lists, strict=True):
        alone = [item for item in items if item not in shared]
        if alone:
            shown = ", ".join(f"'{item}'" for item in alone[:_NAMES_SHOWN])
            more = f" and {len(alone) - _NAMES_SHOWN} more" if len(alone) > _NAMES_SHOWN else ""
            lines.append(
                f"{len(alone)} {what}{'s' if len(alone) > 1 else ''} not in every run, in {name}: {shown}{more}"
            )
    return tuple(item for item in lists[0] if item in shared), tuple(lines)


def _list_kinds(lost_cases: Sequence[str], lost_labels: Sequence[str]) -> list[str]:
    return [kind for kind, lost in (("cases", lost_cases), ("labels", lost_labels)) if lost]


def _require_same_references(
    scores: Sequence[Sequence[Sequence[LabelScore]]], cases: Sequence[str], names: Sequence[str]
) -> None:
    """Refuse references whose labels do not have the same number of voxels in every run."""
    wrong = []
    for case, *rows in zip(cases, *scores, strict=True):
        for columns in zip(*rows, strict=True):
            known = {score.num_reference for score in columns} - {None}
            if len(known) > 1:
                counts = ", ".join(f"{name} {score.num_reference}" for name, score in zip(names, columns, strict=True))
                wrong.append(f"'{case}': voxels of a label in the reference: {counts}")
                break
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(cases)} cases were not scored against the same references",
            details=tuple(wrong[:_MAX_DETAILS]),
            hint="stu evaluate all runs against one folder of references",
        )
