"""Expected Dice, bounds, the accept rule and the ranking, on drawn cases of known truth."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.prediction.quality.conformal import (
    compute_proven_rate,
    count_needed_cases,
    find_lower_bound,
    find_upper_bound,
)
from stu_pipeline.prediction.quality.estimate import estimate_quality, rank_cases
from stu_pipeline.prediction.quality.estimator import fit_estimator
from stu_pipeline.prediction.quality.evaluation import compute_auroc, compute_spearman, evaluate_estimates
from stu_pipeline.prediction.quality.features import LabelFeatures, ScoredLabel
from stu_pipeline.prediction.quality.regression import Observation, fit_regression, from_scale, to_scale

LABELS = (ScoredLabel(channel=1, key=(1,), name="liver"), ScoredLabel(channel=2, key=(2,), name="spleen"))
USUAL = {"liver": 1.25, "spleen": 1.0}
NUM_GROUPS = 5


def draw_features(generator, shift, **changes):
    """Draw features of a mask whose Dice is `shift` above the usual, on the regression's scale."""
    values = {
        "num_voxels": 1000,
        "volume_ml": float(np.exp(generator.normal(0, 0.2))),
        "soft_dice": from_scale(1.3 + 0.5 * shift + generator.normal(0, 0.03)),
        "confidence": 0.9,
        "border_confidence": 0.7 + 0.5 * shift + generator.normal(0, 0.03),
        "entropy": 0.3 - 0.3 * shift + generator.normal(0, 0.05),
        "surface": float(np.exp(2 - 0.2 * shift + generator.normal(0, 0.05))),
    }
    return LabelFeatures(**values | changes)


def draw_cases(generator, num_cases, *, is_informative=True, labels=LABELS):
    """Draw cases of several groups; labels of one case go together, and errors grow with the shift."""
    observations = []
    for index in range(num_cases):
        common = generator.normal(0, 0.08)
        for label in labels:
            shift = common + generator.normal(0, 0.08)
            noise = generator.normal(0, 0.03 + 0.05 * (shift < 0))
            known = shift if is_informative else generator.normal(0, 0.1)
            observations.append(
                Observation(
                    case=f"case_{index:03d}",
                    group=index % NUM_GROUPS,
                    label=label.name,
                    features=draw_features(generator, known),
                    dice=from_scale(USUAL[label.name] + shift + noise),
                )
            )
    return observations


def by_case(observations):
    found = {}
    for item in observations:
        found.setdefault(item.case, {})[item.label] = item
    return found


def estimate_case(own, estimator, **options):
    channels = {label.name: label.channel for label in LABELS}
    return estimate_quality({channels[name]: item.features for name, item in own.items()}, estimator, **options)


def test_a_split_bound_holds_as_often_as_the_theorem_says():
    # With a fixed estimate, a new case falls below the bound in exactly floor(rate * (n + 1)) / (n + 1) of all draws.
    generator, num_draws = np.random.default_rng(0), 6000
    for count, rate in ((19, 0.1), (9, 0.1), (30, 0.2)):
        expected = math.floor(rate * (count + 1) + 1e-9) / (count + 1)
        values = generator.exponential(size=(num_draws, count + 1))
        below = sum(-row[-1] < find_lower_bound([0.0] * count, row[:-1], rate) for row in values)
        above = sum(row[-1] > find_upper_bound([0.0] * count, -row[:-1], rate) for row in values)
        deviation = 4 * math.sqrt(expected * (1 - expected) / num_draws)
        assert below / num_draws == pytest.approx(expected, abs=deviation)
        assert above / num_draws == pytest.approx(expected, abs=deviation)


@pytest.mark.parametrize(("rate", "needed"), [(0.1, 9), (0.05, 19), (0.2, 4), (0.3, 3), (0.01, 99)])
def test_fewer_cases_than_needed_give_no_bound(rate, needed):
    assert count_needed_cases(rate) == needed
    assert find_lower_bound([0.0] * needed, [0.0] * needed, rate) == 0
    assert find_lower_bound([0.0] * (needed - 1), [0.0] * (needed - 1), rate) is None
    assert find_upper_bound([0.0] * (needed - 1), [0.0] * (needed - 1), rate) is None


def test_the_proven_rate_is_about_twice_the_asked_one():
    assert compute_proven_rate(0.1, 200, 5) == pytest.approx(0.2 + 2 * 0.8 / 41)
    assert compute_proven_rate(0.1, 0, 0) == 1


def test_bounds_and_accepted_cases_keep_the_error_rate_in_simulated_studies():
    rate, num_draws, num_new = 0.1, 80, 30
    generator = np.random.default_rng(1)
    below, wrongly, accepted = [], [], []
    for _ in range(num_draws):
        estimator = fit_estimator(draw_cases(generator, 60), LABELS, accept_dice=0.7)
        for own in by_case(draw_cases(generator, num_new)).values():
            quality = estimate_case(own, estimator, error_rate=rate)
            bounds = {label.name: label.lower_bound for label in quality.labels}
            below += [item.dice < bounds[name] for name, item in own.items()]
            accepted.append(quality.is_accepted)
            wrongly.append(quality.is_accepted and min(item.dice for item in own.values()) < 0.7)
    # Draws share their calibration, so the error of the mean is that of the means of draws.
    per_draw = np.array(below).reshape(num_draws, -1).mean(axis=1)
    deviation = 3 * per_draw.std() / math.sqrt(num_draws)
    assert np.mean(below) <= rate + deviation
    assert np.mean(below) >= rate - 0.03  # and the bounds are not empty talk
    assert np.mean(wrongly) <= rate
    assert 0.05 < np.mean(accepted) < 0.6


def test_the_rule_does_not_hold_for_other_images():
    # What the documentation warns of: features that promise more than there is.
    generator = np.random.default_rng(2)
    estimator = fit_estimator(draw_cases(generator, 100), LABELS)
    worse = [
        dataclasses.replace(item, dice=from_scale(to_scale(item.dice) - 0.3)) for item in draw_cases(generator, 100)
    ]
    below = [
        own[label.name].dice < label.lower_bound
        for own in by_case(worse).values()
        for label in estimate_case(own, estimator).labels
    ]
    assert np.mean(below) > 0.5


def test_estimates_that_know_something_are_useful_and_say_how_much():
    verdict = evaluate_estimates(draw_cases(np.random.default_rng(3), 100), LABELS, error_rate=0.1)
    assert verdict.is_useful and 0 < verdict.gain_at_least < verdict.gain
    total = verdict.total
    assert total.mae < 0.7 * min(total.mae_mean, total.mae_soft_dice)
    assert total.spearman > 0.65 and total.auroc > 0.8
    assert 0.83 < total.coverage < 0.97 and verdict.accepted_wrongly <= 0.1
    assert total.num_cases == 100 and {name: found.num_cases for name, found in verdict.labels.items()} == {
        "liver": 100, "spleen": 100,
    }  # fmt: skip


def test_estimates_that_know_nothing_are_rarely_called_useful():
    generator = np.random.default_rng(4)
    verdicts = [
        evaluate_estimates(draw_cases(generator, 40, is_informative=False), LABELS[:1], error_rate=0.1)
        for _ in range(40)
    ]
    assert sum(verdict.is_useful for verdict in verdicts) <= 4  # 5 % of 40, and two deviations


def test_slopes_never_reward_doubt():
    # Even if, in the calibration, unsure masks happened to be the better ones.
    generator = np.random.default_rng(5)
    upside_down = [
        dataclasses.replace(item, features=draw_features(generator, -(to_scale(item.dice) - USUAL[item.label])))
        for item in draw_cases(generator, 60)
    ]
    fitted = fit_regression(upside_down, ("soft_dice", "volume"))
    assert min(fitted.slopes) >= 0 and max(fitted.slopes) < 0.01


def test_a_label_with_few_cases_leans_on_the_others():
    generator = np.random.default_rng(6)
    cases = draw_cases(generator, 60)
    few = [item for item in cases if item.label == "liver" or item.case in ("case_000", "case_001")]
    regression = fit_estimator(few, LABELS).regression
    offsets = {name: part.offset for name, part in regression.labels.items()}
    full = fit_estimator(cases, LABELS).regression
    whole = full.labels["spleen"].offset - full.labels["liver"].offset
    assert whole == pytest.approx(USUAL["spleen"] - USUAL["liver"], abs=0.05)
    assert 0.15 * whole > offsets["spleen"] - offsets["liver"] > 0.7 * whole  # both are negative


def test_too_few_bounds_leave_the_verdict_open():
    estimator = fit_estimator(draw_cases(np.random.default_rng(7), 30), LABELS)
    own = by_case(draw_cases(np.random.default_rng(8), 1))["case_000"]
    quality = estimate_case(own, estimator, error_rate=0.01, accept_dice=0.0)
    assert quality.is_accepted is None
    assert [label.lower_bound for label in quality.labels] == [None, None]
    assert all(0 < label.expected_dice < 1 for label in quality.labels)


def test_a_missing_label_is_a_reason_to_look_where_every_case_had_it():
    estimator = fit_estimator(draw_cases(np.random.default_rng(9), 50), LABELS)
    own = by_case(draw_cases(np.random.default_rng(10), 1))["case_000"]
    quality = estimate_quality({1: own["liver"].features}, estimator, accept_dice=0.0)
    assert quality.is_accepted is False
    assert quality.reasons == ("spleen: not found, 100% of the calibration cases had it",)
    assert quality.priority == pytest.approx(estimator.labels["spleen"].mean_dice)


def test_a_missing_label_is_nothing_where_many_cases_lack_it():
    cases = draw_cases(np.random.default_rng(11), 50)
    empty = LabelFeatures(
        num_voxels=0, volume_ml=0, soft_dice=0, confidence=0, border_confidence=0, entropy=0, surface=0
    )
    cases = [
        dataclasses.replace(item, features=empty, dice=None)
        if item.label == "spleen" and int(item.case[-1]) < 3
        else item
        for item in cases
    ]
    estimator = fit_estimator(cases, LABELS)
    assert estimator.labels["spleen"].share == pytest.approx(0.7)
    liver = next(item for item in cases if item.label == "liver").features
    quality = estimate_quality({1: liver, 2: empty}, estimator, accept_dice=0.0)
    assert quality.is_accepted is True and quality.reasons == ()


def test_a_mask_without_any_label_is_never_accepted():
    cases = [item for item in draw_cases(np.random.default_rng(12), 50) if int(item.case[-2:]) % 2 or item.label == "x"]
    extra = [dataclasses.replace(item, label="other") for item in draw_cases(np.random.default_rng(12), 50)]
    estimator = fit_estimator(cases + extra, LABELS)
    quality = estimate_quality({}, estimator, accept_dice=0.0)
    assert quality.is_accepted is False and quality.reasons == ()


def test_an_unusual_volume_is_a_reason_with_numbers():
    estimator = fit_estimator(draw_cases(np.random.default_rng(13), 50), LABELS)
    usual = draw_features(np.random.default_rng(14), 0.1)
    ordinary = estimate_quality({1: usual, 2: usual}, estimator, accept_dice=0.0)
    huge = estimate_quality({1: usual, 2: dataclasses.replace(usual, volume_ml=30.0)}, estimator, accept_dice=0.0)
    assert ordinary.is_accepted and not ordinary.reasons
    assert huge.is_accepted is False
    assert huge.reasons[0].startswith("spleen: 30 ml, the calibration cases had 0.")
    assert huge.labels[1].expected_dice < ordinary.labels[1].expected_dice


def test_a_label_that_no_calibration_case_had_is_not_estimated():
    only_liver = draw_cases(np.random.default_rng(15), 50, labels=LABELS[:1])
    usual = draw_features(np.random.default_rng(14), 0.1)
    quality = estimate_quality({1: usual, 2: usual}, fit_estimator(only_liver, LABELS))
    spleen = quality.labels[1]
    assert spleen.expected_dice is None and "nothing is known" in spleen.reasons[0]
    assert quality.is_accepted is False


def test_ranking_puts_the_worst_first():
    generator = np.random.default_rng(16)
    estimator = fit_estimator(draw_cases(generator, 100), LABELS)
    new = by_case(draw_cases(generator, 100))
    ranked = rank_cases({name: estimate_case(own, estimator) for name, own in new.items()})
    worst = {name: max(USUAL[label] - to_scale(item.dice) for label, item in own.items()) for name, own in new.items()}
    truly = sorted(worst, key=lambda name: -worst[name])[:20]
    assert sorted(ranked) == sorted(new)
    assert len(set(truly) & set(ranked[:30])) >= 14  # by chance: 6


def test_fewer_than_ten_cases_are_refused():
    with pytest.raises(DataError, match="at least 10 validation cases with a predicted label, found 9"):
        evaluate_estimates(draw_cases(np.random.default_rng(17), 9), LABELS, error_rate=0.1)


@pytest.mark.parametrize("options", [{"error_rate": 0.0}, {"error_rate": 1.0}, {"accept_dice": 1.5}])
def test_rates_that_are_no_shares_are_refused(options):
    estimator = fit_estimator(draw_cases(np.random.default_rng(18), 20), LABELS)
    with pytest.raises(UsageError, match="got '"):
        estimate_quality({}, estimator, **options)


def test_rank_statistics():
    a, b = np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 1, 4, 3, 5])
    assert compute_spearman(a, b) == pytest.approx(0.8)
    assert compute_spearman(a[:4], b[:4]) is None and compute_spearman(a, np.ones(5)) is None
    is_hit = np.array([0.0, 0, 0, 1, 1])
    assert compute_auroc(a, is_hit) == 1 and compute_auroc(-a, is_hit) == 0
    assert compute_auroc(np.ones(5), is_hit) == 0.5 and compute_auroc(a, np.zeros(5)) is None
