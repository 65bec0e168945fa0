"""Judge labels: nothing labelled, stray voxels, labels that are rare or nearly invisible."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stu_pipeline.datasets.dataset_json import DatasetJson
from stu_pipeline.datasets.inspection import CaseReport
from stu_pipeline.datasets.splits.check import check_coverage
from stu_pipeline.datasets.splits.files import make_splits
from stu_pipeline.doctor.finding import Finding, name_some
from stu_pipeline.doctor.screening.observation import LabelComponents

# A part is tiny below this share of the label's usual largest part, and never above this many voxels (3 x 3 x 3).
_TINY_SHARE = 0.02
_TINY_VOXELS = 27
# Labels that usually come in more parts than this are many by nature, as lesions are.
_MANY_PARTS = 4
# A label is nearly invisible to a network below this share of all foreground voxels.
_SMALL_SHARE = 1e-3


def judge_labels(cases: Sequence[CaseReport], dataset_json: DatasetJson) -> list[Finding]:
    """Judge the labels of all cases whose voxels were read."""
    return [
        *_find_empty(cases, dataset_json),
        *_find_tiny_parts(cases, dataset_json),
        *_find_rare(cases, dataset_json),
        *_find_small(cases, dataset_json),
    ]


def _find_empty(cases: Sequence[CaseReport], dataset_json: DatasetJson) -> list[Finding]:
    foreground = set(dataset_json.foreground_values)
    empty = tuple(case.case_id for case in cases if foreground.isdisjoint(case.label_voxels))
    if not empty:
        return []
    if len(empty) == len(cases):
        what = "no case has any foreground"
        return [Finding(action="empty", severity="problem", what=what, cases=empty)]
    what = f"{len(empty)} of {len(cases)} label maps hold background only"
    return [Finding(action="empty", severity="warning", what=what, cases=empty)]


def _find_tiny_parts(cases: Sequence[CaseReport], dataset_json: DatasetJson) -> list[Finding]:
    parts: dict[int, list[tuple[str, LabelComponents]]] = {}
    for case in cases:
        for stored, components in case.observation.components.items():
            parts.setdefault(stored, []).append((case.case_id, components))
    names = dict(zip(dataset_json.stored_label_ids, dataset_json.label_values, strict=True))
    findings = []
    for stored, found in sorted(parts.items()):
        if float(np.median([components.count for _, components in found])) > _MANY_PARTS:
            continue
        usual = float(np.median([components.largest for _, components in found]))
        limit = min(_TINY_VOXELS, int(_TINY_SHARE * usual))
        tiny = {case: [size for size in components.smallest if size <= limit] for case, components in found}
        own = tuple(case for case, sizes in tiny.items() if sizes)
        if own:
            sizes = [size for case in own for size in tiny[case]]
            what = (
                f"label {stored} '{dataset_json.find_name(names[stored])}': {_count(len(sizes), 'part')} of at most "
                f"{_count(max(sizes), 'voxel')} in {len(own)} of {_count(len(found), 'case')}; its main part usually "
                f"has {usual:.0f}"
            )
            findings.append(Finding(action="components", severity="warning", what=what, cases=own))
    return findings


def _find_rare(cases: Sequence[CaseReport], dataset_json: DatasetJson) -> list[Finding]:
    wanted = set(dataset_json.foreground_values)
    present = {case.case_id: wanted & case.labels for case in cases}
    if not any(present.values()):
        return []
    findings = []
    for value in dataset_json.foreground_values:
        if not any(value in labels for labels in present.values()):
            what = f"label {value} '{dataset_json.find_name(value)}' does not occur in any case"
            findings.append(Finding(action="rare", severity="warning", what=what))
    if len(cases) < 2:
        return findings
    names = {value: dataset_json.find_name(value) for value in wanted}
    splits = make_splits(sorted(present))
    findings += [
        Finding(action="rare", severity="warning", what=f"with the usual folds, {text}")
        for text in check_coverage(splits, present, names)
    ]
    return findings


def _find_small(cases: Sequence[CaseReport], dataset_json: DatasetJson) -> list[Finding]:
    totals = count_label_voxels(cases, dataset_json)
    foreground = sum(totals.values())
    small = [value for value, count in totals.items() if 0 < count < _SMALL_SHARE * foreground]
    if not small:
        return []
    shown = name_some(
        [f"{value} '{dataset_json.find_name(value)}' {totals[value] / foreground:.2%}" for value in small]
    )
    what = f"{_count(len(small), 'label')} below {_SMALL_SHARE:.1%} of all foreground voxels: {shown}"
    return [Finding(action="rare", severity="note", what=what)]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def count_label_voxels(cases: Sequence[CaseReport], dataset_json: DatasetJson) -> dict[int, int]:
    """Count the voxels of every foreground label over all cases."""
    return {value: sum(case.label_voxels.get(value, 0) for case in cases) for value in dataset_json.foreground_values}
