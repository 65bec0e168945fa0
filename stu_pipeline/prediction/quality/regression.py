"""The regression from features to Dice: few numbers, shared by all labels, each label with an offset of its own.

Works on the scale `arcsin(sqrt(Dice))`, where the spread hardly depends on the value and 0 is not far away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stu_pipeline.prediction.quality.features import LabelFeatures

Array = npt.NDArray[np.float64]

# Entropy and the confidence at the border were tried as well: beside the soft Dice they added nothing.
FEATURES = ("soft_dice", "volume", "surface")
AGREEMENT = "agreement"
# Ridge, in cases: a slope needs few to be believed, an offset of a label a handful.
_SLOPE_RIDGE = 1.0
_OFFSET_RIDGE = 3.0
_SMALLEST_SPREAD = 0.05
_FARTHEST = 20.0
_MAD_TO_SIGMA = 1.4826
_TOP = math.pi / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One label of one cross-validation case: what the prediction knew, and what it scored."""

    case: str
    group: int
    """Cases of one group were predicted by one fold; regressions are tested on the groups they have not seen."""
    label: str
    """Its name."""
    features: LabelFeatures
    dice: float | None
    """None where neither mask nor reference has the label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPart:
    """What a regression knows of one label."""

    offset: float
    log_volume: tuple[float, float]
    """Median and spread of the logarithm of the volume in ml."""
    log_surface: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """A fitted regression. Every feature is turned so that more is better, and no slope is negative.

    So whatever comes in, less certain or more unusual never raises the estimate.
    """

    features: tuple[str, ...]
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    slopes: tuple[float, ...]
    intercept: float
    labels: Mapping[str, LabelPart]

    def estimate(self, label: str, features: LabelFeatures) -> float:
        """Return the estimate on the regression's scale, 0 to pi / 2; of an unknown label without its offset."""
        part = self.labels.get(label)
        row = _build_row(features, part, self.features)
        steps = (row - np.array(self.means)) / np.array(self.spreads)
        value = self.intercept + float(steps @ np.array(self.slopes)) + (part.offset if part is not None else 0.0)
        return min(max(value, 0.0), _TOP)


def to_scale(dice: float) -> float:
    """Return Dice on the regression's scale."""
    return math.asin(math.sqrt(min(max(dice, 0.0), 1.0)))


def from_scale(value: float) -> float:
    """Return the Dice of a value on the regression's scale; what lies outside is cut off.

    >>> round(from_scale(to_scale(0.8)), 6)
    0.8
    """
    return math.sin(min(max(value, 0.0), _TOP)) ** 2


def choose_features(observations: Sequence[Observation]) -> tuple[str, ...]:
    """Name the features that every observation has."""
    has_agreement = all(item.features.agreement is not None for item in observations)
    return (*FEATURES, AGREEMENT) if has_agreement else FEATURES


def fit_regression(observations: Sequence[Observation], features: tuple[str, ...]) -> Regression:
    """Fit a regression to at least one observation of a mask that is not empty."""
    names = sorted({item.label for item in observations})
    parts = {name: _measure_label([item for item in observations if item.label == name]) for name in names}
    rows = np.stack([_build_row(item.features, parts[item.label], features) for item in observations])
    target = np.array([to_scale(item.dice or 0.0) for item in observations])
    means, spreads = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
    index = np.array([names.index(item.label) for item in observations])
    slopes, offsets, intercept = _solve((rows - means) / spreads, index, target, len(names))
    return Regression(
        features=features,
        means=tuple(means.tolist()),
        spreads=tuple(spreads.tolist()),
        slopes=tuple(slopes.tolist()),
        intercept=intercept,
        labels={
            name: LabelPart(
                offset=float(offset), log_volume=parts[name].log_volume, log_surface=parts[name].log_surface
            )
            for name, offset in zip(names, offsets, strict=True)
        },
    )


def _build_row(features: LabelFeatures, part: LabelPart | None, names: Sequence[str]) -> Array:
    """Turn features into numbers of which more is better."""
    values = {
        "soft_dice": to_scale(features.soft_dice),
        "volume": -_measure_distance(features.volume_ml, part.log_volume if part else None),
        "surface": -_measure_distance(features.surface, part.log_surface if part else None),
        AGREEMENT: to_scale(features.agreement or 0.0),
    }
    return np.array([values[name] for name in names])


def _measure_distance(value: float, usual: tuple[float, float] | None) -> float:
    """Return how many spreads a logarithm is from its usual value; 0 where nothing is usual."""
    if usual is None:
        return 0.0
    if value <= 0:
        return _FARTHEST
    return min(abs(math.log(value) - usual[0]) / usual[1], _FARTHEST)


def _measure_label(observations: Sequence[Observation]) -> LabelPart:
    volumes = [item.features.volume_ml for item in observations]
    surfaces = [item.features.surface for item in observations]
    return LabelPart(offset=0.0, log_volume=_measure_usual(volumes), log_surface=_measure_usual(surfaces))


def _measure_usual(values: Sequence[float]) -> tuple[float, float]:
    logs = np.log([value for value in values if value > 0] or [1.0])
    median = float(np.median(logs))
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(logs - median)))
    return median, max(spread, _SMALLEST_SPREAD)


def _solve(x: Array, label_index: npt.NDArray[np.intp], target: Array, num_labels: int) -> tuple[Array, Array, float]:
    """Return non-negative slopes, offsets of labels and the intercept, by ridge least squares."""
    num_slopes = x.shape[1]
    one_hot = np.zeros((len(x), num_labels))
    one_hot[np.arange(len(x)), label_index] = 1
    design = np.hstack([x, one_hot, np.ones((len(x), 1))])
    ridge = np.array([_SLOPE_RIDGE] * num_slopes + [_OFFSET_RIDGE] * num_labels + [1e-6])
    # The same minimum with as many rows as unknowns.
    from scipy.linalg import cholesky, solve_triangular  # late: predictions only read what was fitted
    from scipy.optimize import lsq_linear

    factor = cholesky(design.T @ design + np.diag(ridge))
    right = solve_triangular(factor, design.T @ target, trans="T")
    low = np.array([0.0] * num_slopes + [-np.inf] * (num_labels + 1))
    solution = lsq_linear(factor, right, bounds=(low, np.inf), method="bvls").x
    return solution[:num_slopes], solution[num_slopes:-1], float(solution[-1])
