import itertools

import numpy as np
import pytest

from stu_pipeline.errors import UsageError
from stu_pipeline.evaluation.lesions import NO_LESIONS, LesionRule, score_lesions


def make_mask(*bars, length=40):
    """Bars of voxels along a line, three lines apart from each other when given as `(line, start, stop)`."""
    mask = np.zeros((3, 9, length), dtype=bool)
    for bar in bars:
        line, start, stop = bar if len(bar) == 3 else (0, *bar)
        mask[1, 2 * line + 1, start:stop] = True
    return mask


def score(reference, prediction, *, voxel_mm3=1.0, **rule):
    return score_lesions(reference, prediction, voxel_mm3=voxel_mm3, rule=LesionRule(**rule))


def count(scores):
    return scores.tp, scores.fp, scores.fn


def test_found_missed_and_invented_lesions_are_counted():
    scores = score(make_mask((0, 4), (10, 14), (20, 24)), make_mask((2, 4), (21, 25), (30, 31)))
    assert count(scores) == (2, 1, 1)
    assert (scores.precision, scores.recall, scores.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert scores.dice == pytest.approx((2 * 2 / (4 + 2) + 2 * 3 / (4 + 4)) / 2)


def test_one_prediction_over_two_lesions_finds_one_of_them():
    assert count(score(make_mask((0, 4), (6, 10)), make_mask((0, 10)))) == (1, 0, 1)


def test_one_lesion_in_two_pieces_is_found_once_and_one_piece_is_left_over():
    scores = score(make_mask((0, 10)), make_mask((0, 3), (5, 10)))
    assert count(scores) == (1, 1, 0)
    assert scores.dice == pytest.approx(2 * 5 / 15)  # of the larger piece


def test_the_matching_has_as_many_pairs_as_can_be():
    # The best overlap is the first lesion with the first prediction; taking it would leave the others alone.
    reference = make_mask((2, 12), (14, 20))
    prediction = make_mask((4, 16), (0, 3))
    assert count(score(reference, prediction)) == (2, 0, 0)


def test_the_overlap_that_is_asked_for_must_be_exceeded():
    reference, prediction = make_mask((0, 10)), make_mask((0, 5))  # IoU 0.5
    assert count(score(reference, prediction, min_iou=0.49)) == (1, 0, 0)
    assert count(score(reference, prediction, min_iou=0.5)) == (0, 1, 1)
    assert np.isnan(score(reference, prediction, min_iou=0.5).dice)


def test_components_below_the_smallest_size_are_no_lesions():
    reference, prediction = make_mask((0, 4), (10, 12)), make_mask((0, 4), (20, 21))
    assert count(score(reference, prediction, min_size_mm3=6.0, voxel_mm3=3.0)) == (1, 0, 1)
    assert count(score(reference, prediction, min_size_mm3=6.1, voxel_mm3=3.0)) == (1, 0, 0)


def test_a_lesion_left_out_does_not_take_the_place_of_another():
    reference, prediction = make_mask((0, 1), (4, 8), (20, 26)), make_mask((0, 2), (10, 11), (21, 26))
    scores = score(reference, prediction, min_size_mm3=3.0)
    assert count(scores) == (1, 0, 1)
    assert scores.dice == pytest.approx(2 * 5 / 11)


def test_a_header_rounded_down_does_not_cost_a_lesion_of_the_smallest_size():
    mask = make_mask((0, 6))
    assert count(score(mask, mask, min_size_mm3=6.0, voxel_mm3=0.9999999)) == (1, 0, 0)
    assert count(score(mask, mask, min_size_mm3=6.0, voxel_mm3=0.999)) == (0, 0, 0)


def test_voxels_that_share_a_corner_are_one_lesion():
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[[0, 1, 2], [0, 1, 2], [0, 1, 2]] = True
    assert count(score(mask, mask)) == (1, 0, 0)
    flat = np.zeros((1, 4, 4), dtype=bool)
    flat[0, [0, 1], [1, 0]] = True
    assert count(score(flat, flat)) == (1, 0, 0)


def test_nothing_on_both_sides_has_no_ratio():
    empty = make_mask()
    scores = score(empty, empty)
    assert str(scores) == str(NO_LESIONS)
    assert np.isnan([scores.precision, scores.recall, scores.f1, scores.dice]).all()


def test_nothing_on_one_side_scores_zero():
    empty, full = make_mask(), make_mask((0, 4), (6, 8))
    missed, invented = score(full, empty), score(empty, full)
    assert (count(missed), missed.recall, missed.f1) == ((0, 0, 2), 0.0, 0.0)
    assert (count(invented), invented.precision, invented.f1) == ((0, 2, 0), 0.0, 0.0)
    assert np.isnan([missed.precision, invented.recall]).all()


@pytest.mark.parametrize("min_iou", [0.0, 0.2])
def test_the_matching_is_as_good_as_any(min_iou):
    generator = np.random.default_rng(4)
    for _ in range(20):
        bars = [[tuple(sorted(generator.choice(30, 2, replace=False))) for _ in range(4)] for _ in range(2)]
        masks = [np.zeros((1, 1, 30), dtype=bool) for _ in range(2)]
        for mask, ends in zip(masks, bars, strict=True):
            for start, stop in ends:
                mask[..., start : min(stop, start + 4)] = True
        scores = score(*masks, min_iou=min_iou)
        assert scores.tp == count_best_pairs(*(find_runs(mask.ravel()) for mask in masks), min_iou=min_iou)
        swapped = score(*reversed(masks), min_iou=min_iou)
        assert count(swapped) == (scores.tp, scores.fn, scores.fp)


def find_runs(line):
    runs, current = [], set()
    for index, is_inside in enumerate([*line, False]):
        if is_inside:
            current.add(index)
        elif current:
            runs.append(current)
            current = set()
    return runs


def count_best_pairs(first, second, *, min_iou):
    few, many = sorted((first, second), key=len)
    best = 0
    for chosen in itertools.permutations(many, len(few)):
        pairs = zip(few, chosen, strict=True)
        best = max(best, sum(len(a & b) > min_iou * len(a | b) for a, b in pairs))
    return best


@pytest.mark.parametrize("rule", [{"min_iou": 1.0}, {"min_iou": -0.1}, {"min_size_mm3": -1}, {"min_size_mm3": np.nan}])
def test_rules_that_make_no_sense_are_refused(rule):
    with pytest.raises(UsageError, match="must be at least 0"):
        LesionRule(**rule)
