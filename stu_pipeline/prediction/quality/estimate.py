"""From features to what a person wants to know: how good is this mask likely to be, and which to look at first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stu_pipeline.errors import UsageError
from stu_pipeline.prediction.quality.conformal import find_lower_bound, find_upper_bound
from stu_pipeline.prediction.quality.estimator import Estimator, SeenError, UsualLabel
from stu_pipeline.prediction.quality.features import LabelFeatures
from stu_pipeline.prediction.quality.regression import from_scale

DEFAULT_ERROR_RATE = 0.1
# A label that so many calibration cases had is missed when it is not there.
_USUAL_SHARE = 0.95
# Volumes farther out than this factor beyond all calibration cases are unlike them.
_VOLUME_MARGIN = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelQuality:
    """What to expect of one label of a mask. None where there is no such number."""

    name: str
    expected_dice: float | None
    """Half of such masks are better."""
    lower_bound: float | None
    """Of new masks of this label, a share of `error_rate` in practice is worse."""
    upper_bound: float | None
    """And as many are better than this."""
    usual_dice: float | None
    """The mean of the label in the cross-validation."""
    reasons: tuple[str, ...] = ()
    """Why somebody should look at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseQuality:
    """What to expect of a mask."""

    labels: tuple[LabelQuality, ...]
    is_accepted: bool | None
    """Whether every label is above what it must reach; None with too few calibration cases to say so."""
    priority: float
    """How far the worst label is expected to be below its usual Dice; negative where all are expected above. The
    case with the highest comes first."""
    error_rate: float

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why somebody should look at the case."""
        return tuple(f"{label.name}: {reason}" for label in self.labels for reason in label.reasons)


def estimate_quality(
    features: Mapping[int, LabelFeatures],
    estimator: Estimator,
    *,
    error_rate: float = DEFAULT_ERROR_RATE,
    accept_dice: float | None = None,
) -> CaseQuality:
    """Estimate the quality of one case.

    Of all new cases, at most a share of about `error_rate` is accepted although a label of its mask is below
    what it must reach; see `conformal` for when that holds.

    Args:
        features: by channel.
        estimator: learned from the cross-validation of the same model.
        error_rate: see above.
        accept_dice: what every label must reach; None takes the calibration's own numbers per label.

    Raises:
        UsageError: an error rate that is no share, or a Dice that is none.
    """
    require_rates(error_rate, accept_dice)
    labels: list[LabelQuality] = []
    verdicts: list[bool | None] = []
    shortfalls: list[float] = []
    for name, usual in estimator.labels.items():
        found = features.get(usual.channel)
        if found is None or found.num_voxels == 0:
            quality, verdict = _describe_missing(name, usual)
        else:
            goal = usual.accept_dice if accept_dice is None else accept_dice
            quality, verdict = _describe_label(name, usual, found, estimator, error_rate=error_rate, goal=goal)
        labels.append(quality)
        verdicts += verdict
        shortfalls += _measure_shortfall(quality, usual)
    return CaseQuality(
        labels=tuple(labels),
        is_accepted=_combine(verdicts),
        priority=max(shortfalls, default=0.0),
        error_rate=error_rate,
    )


def rank_cases(qualities: Mapping[str, CaseQuality]) -> list[str]:
    """List cases, those to look at first at the top: unusual ones, then by `priority`; equal ones by name."""
    return sorted(qualities, key=lambda case: (not qualities[case].reasons, -qualities[case].priority, case))


def require_rates(error_rate: float, accept_dice: float | None) -> None:
    """Refuse numbers that are no shares.

    Raises:
        UsageError: one of them is none.
    """
    if not 0 < error_rate < 1:
        raise UsageError(f"error_rate must be above 0 and below 1, got '{error_rate}'")
    if accept_dice is not None and not 0 <= accept_dice <= 1:
        raise UsageError(f"accept_dice must be from 0 to 1, got '{accept_dice}'")


def _describe_missing(name: str, usual: UsualLabel) -> tuple[LabelQuality, list[bool | None]]:
    is_missed = usual.share >= _USUAL_SHARE
    reason = f"not found, {usual.share:.0%} of the calibration cases had it"
    quality = LabelQuality(
        name=name, expected_dice=None, lower_bound=None, upper_bound=None, usual_dice=usual.mean_dice,
        reasons=(reason,) if is_missed else (),
    )  # fmt: skip
    return quality, [False] if is_missed else []


def _describe_label(
    name: str, usual: UsualLabel, found: LabelFeatures, estimator: Estimator, *, error_rate: float, goal: float
) -> tuple[LabelQuality, list[bool | None]]:
    if usual.num_cases == 0:
        reason = "no calibration case had it, so nothing is known"
        quality = LabelQuality(
            name=name, expected_dice=None, lower_bound=None, upper_bound=None, usual_dice=None, reasons=(reason,)
        )
        return quality, [False]
    by_group = {group: regression.estimate(name, found) for group, regression in estimator.group_regressions.items()}
    own, every = estimator.label_errors[name], estimator.case_errors
    lower = find_lower_bound(_list_centres(own, by_group), _list_errors(own), error_rate)
    upper = find_upper_bound(_list_centres(own, by_group), _list_errors(own), error_rate)
    joint = find_lower_bound(_list_centres(every, by_group), _list_errors(every), error_rate)
    expected = from_scale(estimator.regression.estimate(name, found))
    reasons = _list_reasons(usual, found, expected, goal)
    quality = LabelQuality(
        name=name,
        expected_dice=expected,
        lower_bound=None if lower is None else from_scale(lower),
        upper_bound=None if upper is None else from_scale(upper),
        usual_dice=usual.mean_dice,
        reasons=reasons,
    )
    if reasons:
        return quality, [False]
    return quality, [None if joint is None else from_scale(joint) >= goal]


def _list_reasons(usual: UsualLabel, found: LabelFeatures, expected: float, goal: float) -> tuple[str, ...]:
    low, high = usual.volume_ml
    reasons = []
    if expected < goal:
        reasons.append(f"expected Dice {expected:.2f}, below {goal:.2f}")
    if not low / _VOLUME_MARGIN <= found.volume_ml <= high * _VOLUME_MARGIN:
        reasons.append(f"{found.volume_ml:.3g} ml, the calibration cases had {low:.3g} to {high:.3g} ml")
    return tuple(reasons)


def _measure_shortfall(quality: LabelQuality, usual: UsualLabel) -> list[float]:
    """Return how far a label is expected to be below its usual Dice; nothing where nothing is expected."""
    if usual.mean_dice is None:
        return []
    if quality.expected_dice is None:
        return [usual.mean_dice] if quality.reasons else []
    return [usual.mean_dice - quality.expected_dice]


def _combine(verdicts: Sequence[bool | None]) -> bool | None:
    """Return the verdict on a case; a mask without any label is not accepted."""
    if not verdicts or any(verdict is False for verdict in verdicts):
        return False
    return None if any(verdict is None for verdict in verdicts) else True


def _list_centres(errors: Sequence[SeenError], by_group: Mapping[int, float]) -> list[float]:
    return [by_group[item.group] for item in errors]


def _list_errors(errors: Sequence[SeenError]) -> list[float]:
    return [item.error for item in errors]
