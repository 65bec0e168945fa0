"""Judge which label maps are mirrored or moved against their image, each case against the others.

Four clues are measured for every way of mirroring a label map: contrast at its edges, spread within labels,
arrangement of the labels, and their shape. How much a clue says about a dataset is learnt from the dataset:
with `x` the advantage of the map as it is, `m` and `s` its usual value and spread, the log-likelihood ratio of
"mirrored" to "as it should be" is `-2 x m / s^2`. A clue that cannot tell, as with symmetric anatomy, has `m` near
0 and stays silent.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stu_pipeline.doctor.screening.alignment import FLIPS, MAX_SHIFT, Alignment

Table = npt.NDArray[np.float64]
"""(number of cases, 7): one clue for every way of mirroring but the identity."""

# What edges and spreads usually say, from the datasets of docs/how-to/check-a-dataset.md; counts as this many cases.
_PRIOR_CASES = 3
_EDGE_PRIOR = (0.5, 0.35)
_SPREAD_PRIOR = (1.2, 1.0)
# Clues that compare cases need some, and this many to know their spread.
_MIN_OTHERS = 4
# No single clue may say more than this, so that one odd number is not enough.
_MAX_EVIDENCE = 8.0
# The odds asked for are e^8, 3000 to 1: mirrored labels are rare. Sound real cases stay below e^6.
MIN_EVIDENCE = 8.0
# A case that is mirrored as a whole fits its own image; then the other cases alone must be clear about it.
_MIN_LAYOUT_EVIDENCE = 12.0
# A relative spread below this is luck of few cases.
_MIN_RELATIVE_SPREAD = 0.15
# With many cases one more or less does not move a median; with few, a case must not vouch for itself.
_MANY_CASES = 20
# A label map counts as moved from 2 voxels and 20 % more edge contrast on (sound real cases: up to 14 %), and only
# along axes where 9 of 10 cases fit best where they are.
_MIN_SHIFT = 2
_MIN_GAIN = 0.18
_MIN_SETTLED = 0.9
_MAD_TO_SIGMA = 1.4826
_TINY = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirroring:
    """A suspicion about one case: the label map looks mirrored along `axes` of the patient."""

    index: int
    axes: tuple[int, ...]
    evidence: float
    """Log-likelihood ratio."""
    fits_image: bool
    """The map fits its own image and differs from the other cases only: sides swapped, or the whole case mirrored."""
    edge_ratio: float
    """Edge contrast mirrored back over edge contrast as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """A suspicion about one case: the label map looks moved by `voxels` along an axis of the patient."""

    index: int
    axis: int
    voxels: int
    gain: float
    """Edge contrast moved back over edge contrast as it is."""


def find_mirrored(alignments: Sequence[Alignment | None]) -> list[Mirroring]:
    """Find the cases whose label map looks mirrored, at most one suspicion per case. None is skipped."""
    known = [index for index, alignment in enumerate(alignments) if alignment is not None]
    items = [alignment for alignment in alignments if alignment is not None]
    if not items:
        return []
    edges = _log_ratio(np.array([item.edge_contrast for item in items]))
    spreads = -_log_ratio(np.array([item.spread for item in items]))
    clues = [_weigh(edges, _EDGE_PRIOR), _weigh(spreads, _SPREAD_PRIOR)]
    if len(items) > _MIN_OTHERS:
        clues += [_weigh(_compare_arrangement(items), None), _weigh(_compare_shape(items), None)]
    capped = np.clip(clues, -_MAX_EVIDENCE, _MAX_EVIDENCE)
    evidence, image, layout = capped.sum(axis=0), capped[:2].sum(axis=0), capped[2:].sum(axis=0)
    found = []
    for number, index in enumerate(known):
        enough = (evidence[number] >= MIN_EVIDENCE) | (layout[number] >= _MIN_LAYOUT_EVIDENCE)
        if not enough.any():
            continue
        # Every way of mirroring may be better than the map as it is; uncapped, the right one is best.
        best = int(np.argmax(np.where(enough, np.sum(clues, axis=0)[number], -np.inf)))
        found.append(
            Mirroring(
                index=index,
                axes=tuple(axis for axis in range(3) if FLIPS[best + 1][axis]),
                evidence=float(evidence[number, best]),
                fits_image=bool(image[number, best] <= 0),
                edge_ratio=float(np.exp(-edges[number, best])),
            )
        )
    return found


def find_shifted(alignments: Sequence[Alignment | None]) -> list[Shift]:
    """Find the cases whose label map fits better some voxels away, where the other cases fit as they are."""
    known = [index for index, alignment in enumerate(alignments) if alignment is not None]
    items = [alignment for alignment in alignments if alignment is not None]
    if len(items) <= _MIN_OTHERS:
        return []
    contrast = np.array([item.shift_contrast for item in items], dtype=np.float64)
    gains = np.log(np.maximum(contrast, _TINY) / np.maximum(contrast[:, :, MAX_SHIFT, None], _TINY))
    places = gains.argmax(axis=2) - MAX_SHIFT
    found = []
    for axis in range(3):
        if float((np.abs(places[:, axis]) < _MIN_SHIFT).mean()) < _MIN_SETTLED:
            continue  # edges do not say where the labels of this dataset belong along this axis
        for number, index in enumerate(known):
            gain, voxels = float(gains[number, axis].max()), int(places[number, axis])
            if abs(voxels) >= _MIN_SHIFT and gain >= _MIN_GAIN:
                found.append(Shift(index=index, axis=axis, voxels=voxels, gain=float(np.exp(gain))))
    return found


def _log_ratio(values: npt.NDArray[np.floating]) -> Table:
    """Return log(identity / mirrored) for `(n, 8)` positive values."""
    safe = np.maximum(values.astype(np.float64), _TINY)
    return np.asarray(np.log(safe[:, :1] / safe[:, 1:]))


def _weigh(clue: Table, prior: tuple[float, float] | None) -> Table:
    """Turn a clue (large: fits as it is) into evidence for "mirrored", learning its weight from the other cases."""
    evidence = np.zeros_like(clue)
    shared = _summarise(clue, prior) if len(clue) > _MANY_CASES else None
    for index, value in enumerate(clue):
        usual, spread = shared or _summarise(np.delete(clue, index, axis=0), prior)
        evidence[index] = np.where(usual > 0, -2 * value * usual / spread**2, 0.0)
    return evidence


def _summarise(clue: Table, prior: tuple[float, float] | None) -> tuple[npt.NDArray[np.float64], ...]:
    num_cases = len(clue)
    usual = np.median(clue, axis=0) if num_cases else np.zeros(clue.shape[1])
    variance = (_MAD_TO_SIGMA * np.median(np.abs(clue - usual), axis=0)) ** 2 if num_cases else usual
    if prior is not None:
        mean, sigma = prior
        usual = (num_cases * usual + _PRIOR_CASES * mean) / (num_cases + _PRIOR_CASES)
        variance = (num_cases * variance + _PRIOR_CASES * sigma**2) / (num_cases + _PRIOR_CASES)
    spread = np.maximum(np.sqrt(variance), _MIN_RELATIVE_SPREAD * np.abs(usual) + _TINY)
    return usual, spread


def _compare_arrangement(items: Sequence[Alignment]) -> Table:
    """Compare label centres with the dataset's usual ones: distance mirrored minus distance as it is."""
    labels = sorted({label for item in items for label in item.labels})
    centres = np.full((len(items), len(labels), 3), np.nan)
    for number, item in enumerate(items):
        centres[number, np.searchsorted(labels, item.labels)] = item.centres
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a label that no case has beside this one
        usual = np.nanmedian(centres, axis=0)
    signs = np.array([[-1 if mirrored else 1 for mirrored in flip] for flip in FLIPS])
    distance = np.nan_to_num((centres[:, None] * signs[:, None] - usual) ** 2).sum(axis=3)
    per_case = distance.sum(axis=2) / np.maximum(1, np.isfinite(centres[:, :, 0]).sum(axis=1))[:, None]
    return np.asarray(per_case[:, 1:] - per_case[:, :1])


def _compare_shape(items: Sequence[Alignment]) -> Table:
    """Compare occupied cells with the dataset's usual ones, likewise."""
    cells = np.array([item.occupancy for item in items], dtype=np.float32)
    usual = np.median(cells, axis=0)
    distances = []
    for flip in FLIPS:
        mirrored = np.flip(cells, tuple(axis + 1 for axis in range(3) if flip[axis]))
        distances.append(((mirrored - usual) ** 2).mean(axis=(1, 2, 3)))
    table = np.array(distances, dtype=np.float64).T
    return np.asarray(table[:, 1:] - table[:, :1])
