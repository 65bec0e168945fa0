"""What is learned from cross-validation: the regression, its errors on cases it had not seen, and what is usual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stu_pipeline.errors import DataError
from stu_pipeline.prediction.quality.features import ScoredLabel
from stu_pipeline.prediction.quality.regression import (
    Observation,
    Regression,
    choose_features,
    fit_regression,
    to_scale,
)

MIN_CASES = 10
"""With fewer nothing is learned."""
NUM_GROUPS = 5
MIN_GROUPS = 2
_ACCEPTED_LOSS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class UsualLabel:
    """A label in the cross-validation."""

    channel: int
    key: tuple[int, ...]
    num_cases: int
    """In which the prediction had it."""
    share: float
    """Of all cases; near 1 the label belongs into every mask."""
    mean_dice: float | None
    accept_dice: float
    """What a mask must reach to be accepted unseen, where nothing else is asked for."""
    volume_ml: tuple[float, float]
    """Smallest and largest prediction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenError:
    """Estimate minus truth, on the regression's scale, of a case that the regression of its group had not seen."""

    group: int
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimator:
    """All that turns features of a new case into estimates and bounds."""

    labels: Mapping[str, UsualLabel]
    regression: Regression
    """Of all cases."""
    group_regressions: Mapping[int, Regression]
    """Of all cases but those of one group."""
    label_errors: Mapping[str, tuple[SeenError, ...]]
    """One per case that has the label."""
    case_errors: tuple[SeenError, ...]
    """The largest of the labels, one per case."""


def fit_estimator(
    observations: Sequence[Observation], labels: Sequence[ScoredLabel], *, accept_dice: float | None = None
) -> Estimator:
    """Learn from all labels of all cross-validation cases, empty predictions included.

    Args:
        observations: of at least two groups.
        labels: the labels of the model; others are ignored.
        accept_dice: what a mask must reach to be accepted; None is 0.1 below what its label usually reaches.

    Raises:
        DataError: all cases with a mask are of one group.
    """
    known = {label.name for label in labels}
    used = [item for item in observations if item.label in known and item.features.num_voxels and item.dice is not None]
    if len({item.group for item in used}) < MIN_GROUPS:
        raise DataError("calibration needs cases of at least two groups with a predicted label")
    features = choose_features(used)
    groups = sorted({item.group for item in used})
    by_group = {group: fit_regression([item for item in used if item.group != group], features) for group in groups}
    errors = [
        (item, by_group[item.group].estimate(item.label, item.features) - to_scale(item.dice or 0.0)) for item in used
    ]
    worst: dict[str, SeenError] = {}
    by_label: dict[str, list[SeenError]] = {label.name: [] for label in labels}
    for item, error in errors:
        seen = SeenError(group=item.group, error=error)
        by_label[item.label].append(seen)
        if item.case not in worst or worst[item.case].error < error:
            worst[item.case] = seen
    num_cases = len({item.case for item in observations})
    return Estimator(
        labels={label.name: _describe_label(label, used, num_cases, accept_dice) for label in labels},
        regression=fit_regression(used, features),
        group_regressions=by_group,
        label_errors={name: tuple(found) for name, found in by_label.items()},
        case_errors=tuple(worst[case] for case in sorted(worst)),
    )


def require_enough(observations: Sequence[Observation]) -> None:
    """Refuse what nothing can be learned from.

    Raises:
        DataError: too few cases.
    """
    num_cases = len({item.case for item in observations if item.features.num_voxels and item.dice is not None})
    if num_cases < MIN_CASES:
        raise DataError(
            f"calibration needs at least {MIN_CASES} validation cases with a predicted label, found {num_cases}",
            hint="train further folds",
        )


def _describe_label(
    label: ScoredLabel, used: Sequence[Observation], num_cases: int, accept_dice: float | None
) -> UsualLabel:
    own = [item for item in used if item.label == label.name]
    scores = [item.dice for item in own if item.dice is not None]
    volumes = [item.features.volume_ml for item in own]
    mean = sum(scores) / len(scores) if scores else None
    usual = max(0.0, mean - _ACCEPTED_LOSS) if mean is not None else 0.0
    return UsualLabel(
        channel=label.channel,
        key=label.key,
        num_cases=len(own),
        share=len(own) / num_cases,
        mean_dice=mean,
        accept_dice=usual if accept_dice is None else accept_dice,
        volume_ml=(min(volumes, default=0.0), max(volumes, default=0.0)),
    )
