"""Judge spacing, size and orientation: cases unlike the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.inspection import CaseReport
from stu_pipeline.doctor.finding import Finding, name_some
from stu_pipeline.doctor.screening.robust import MIN_CASES, measure_deviation

# A spacing or size counts as odd from this factor on, when it is also this far out of the usual scatter.
_MIN_FACTOR = 2.0
_MAX_DEVIATION = 6.0
_LOG_FLOOR = 0.1
# A group of cases this small, among at least this many, is odd; a larger one is another protocol.
_MAX_SHARE = 0.1
_MIN_CASES_FOR_SHARE = 10
_AXES = ("z", "y", "x")


def judge_grids(cases: Sequence[CaseReport]) -> list[Finding]:
    """Compare spacing, extent and orientation over the cases."""
    spacings = np.array([case.spacing_mm for case in cases], dtype=np.float64).reshape(-1, 3)
    shapes = np.array([case.shape for case in cases], dtype=np.float64).reshape(-1, 3)
    findings = _find_odd(cases, spacings, "spacing", "mm")
    findings += _find_odd(cases, spacings * shapes, "extent", "mm")
    return findings + _judge_orientation(cases)


def _find_odd(cases: Sequence[CaseReport], values: npt.NDArray[np.float64], what: str, unit: str) -> list[Finding]:
    texts: dict[int, list[str]] = {}
    for axis, name in enumerate(_AXES):
        logs = np.log(values[:, axis]) if len(cases) else np.zeros(0)
        deviation = np.abs(measure_deviation(logs, _LOG_FLOOR))
        if len(cases) < MIN_CASES:
            continue
        usual = math.exp(float(np.median(logs)))
        far = np.abs(logs - math.log(usual)) > math.log(_MIN_FACTOR)
        odd = np.flatnonzero((deviation > _MAX_DEVIATION) & far)
        if len(odd) > max(1, _MAX_SHARE * len(cases)):
            continue  # a second protocol, not a mistake
        for index in odd:
            texts.setdefault(int(index), []).append(
                f"{values[index, axis]:.4g} {unit} along {name}, usually {usual:.4g}"
            )
    return [
        Finding(action="grid", severity="warning", what=f"{what} {'; '.join(found)}", cases=(cases[index].case_id,))
        for index, found in sorted(texts.items())
    ]


def _judge_orientation(cases: Sequence[CaseReport]) -> list[Finding]:
    groups = Counter(case.observation.orientation for case in cases)
    if len(groups) < 2:
        return []
    usual, _ = groups.most_common(1)[0]
    findings = []
    for code, count in groups.most_common()[1:]:
        own = tuple(case.case_id for case in cases if case.observation.orientation == code)
        is_odd = len(cases) >= _MIN_CASES_FOR_SHARE and count <= _MAX_SHARE * len(cases)
        findings.append(
            Finding(
                action="grid",
                severity="warning" if is_odd else "note",
                what=f"stored as {code}, most cases as {usual}",
                cases=own,
                hint="voxels are used as they are stored, so mirrored storage is another anatomy to a network",
            )
        )
    return findings


def describe_orientations(cases: Sequence[CaseReport]) -> str:
    """Say how the cases are stored, for the summary: `LPS 20, RAS 4`."""
    groups = Counter(case.observation.orientation for case in cases if case.observation is not None)
    return name_some([f"{code} {count}" for code, count in groups.most_common()])
