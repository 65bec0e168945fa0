"""Find cases that are the same volume twice: byte for byte, or nearly (other noise, contrast, resolution)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.inspection import CaseReport
from stu_pipeline.doctor.finding import Finding

# Rows of the similarity matrix that exist at a time: 10,000 cases need 20 MB instead of 400.
_BLOCK = 512
# Similar partners kept per case.
_NUM_PARTNERS = 3
# Correlations are compared as atanh(r), which spreads out those near 1. A pair stands out when it is this many robust
# standard deviations above the usual nearest neighbour; the spread is at least what few cases can show.
_MIN_DEVIATION = 6.0
_MIN_SPREAD = 0.12
# Never below this correlation, and exactly this one with too few cases to know what is usual.
_MIN_CORRELATION = 0.95
_FEW_CASES_CORRELATION = 0.99
_MIN_CASES = 5
_MAD_TO_SIGMA = 1.4826
# Correlation 1 is infinitely far out; this stands in for it.
_MAX_CORRELATION = 1 - 1e-7


def find_duplicates(cases: Sequence[CaseReport]) -> list[Finding]:
    """Find equal images, equal label maps, and images that are nearly equal."""
    images = _group_equal(cases, lambda case: str(case.observation.image_digest))
    findings = [_tell("the same image, voxel for voxel", group) for group in images]
    together = {pair for group in images for pair in _list_pairs(group)}
    digests = {case.case_id: case.observation.label_digest for case in cases}
    ids = [case.case_id for case in cases]
    for first, second, correlation in find_similar(np.array([case.observation.signature for case in cases])):
        pair = (ids[first], ids[second])
        if frozenset(pair) not in together:
            has_same_labels = digests[pair[0]] == digests[pair[1]]
            also = ", and the same label map" if has_same_labels else ""
            findings.append(_tell(f"nearly the same image: correlation {correlation:.4f}{also}", pair))
            together.add(frozenset(pair))
    labelled = [case for case in cases if case.observation.alignment is not None]
    for group in _group_equal(labelled, lambda case: str(case.observation.label_digest)):
        if not _list_pairs(group) <= together:
            findings.append(_tell("the same label map, voxel for voxel, with different images", group))
    return findings


def find_similar(signatures: npt.NDArray[np.float32]) -> list[tuple[int, int, float]]:
    """Find pairs that are more alike than is usual in this dataset: (first, second, correlation), most alike first.

    Args:
        signatures: `(cases, n)`, each of mean 0 and length 1, or all zero, which is like nothing.
    """
    num_cases = len(signatures)
    if num_cases < 2:
        return []
    count = min(_NUM_PARTNERS, num_cases - 1)
    partners = np.empty((num_cases, count), dtype=np.intp)
    values = np.empty((num_cases, count), dtype=np.float64)
    for start in range(0, num_cases, _BLOCK):
        block = signatures[start : start + _BLOCK] @ signatures.T
        rows = np.arange(len(block))
        block[rows, start + rows] = -1
        best = np.argpartition(block, -count, axis=1)[:, -count:]
        partners[start : start + len(block)] = best
        values[start : start + len(block)] = np.take_along_axis(block, best, axis=1)
    least = _choose_least_correlation(values.max(axis=1))
    found = {
        (min(row, int(partners[row, column])), max(row, int(partners[row, column]))): float(values[row, column])
        for row, column in np.argwhere(values >= least)
    }
    return sorted(((*pair, value) for pair, value in found.items()), key=lambda item: -item[2])


def _choose_least_correlation(nearest: npt.NDArray[np.float64]) -> float:
    if len(nearest) < _MIN_CASES:
        return _FEW_CASES_CORRELATION
    distances = np.arctanh(np.clip(nearest, -_MAX_CORRELATION, _MAX_CORRELATION))
    centre = float(np.median(distances))
    spread = max(_MIN_SPREAD, _MAD_TO_SIGMA * float(np.median(np.abs(distances - centre))))
    return max(_MIN_CORRELATION, min(_MAX_CORRELATION, float(np.tanh(centre + _MIN_DEVIATION * spread))))


def _group_equal(cases: Sequence[CaseReport], key: Callable[[CaseReport], str]) -> list[tuple[str, ...]]:
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(key(case), []).append(case.case_id)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _list_pairs(group: Sequence[str]) -> set[frozenset[str]]:
    return {frozenset((first, second)) for place, first in enumerate(group) for second in group[place + 1 :]}


def _tell(what: str, cases: tuple[str, ...]) -> Finding:
    return Finding(action="duplicates", severity="warning", what=what, cases=cases)
