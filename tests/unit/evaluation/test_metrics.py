import numpy as np
import pytest

from stu_pipeline.evaluation.labels import Label
from stu_pipeline.evaluation.lesions import LesionRule
from stu_pipeline.evaluation.metrics import count_pairs, find_values, index_values, score_case, score_empty_label
from stu_pipeline.evaluation.surface import score_surfaces

ONE = Label(key="1", name="one", values=(1,))
TWO = Label(key="2", name="two", values=(2,))
WHOLE = Label(key="(1, 2)", name="whole", values=(1, 2))
UNIT = (1.0, 1.0, 1.0)


def make_pair():
    """Two 4x4x4 cubes of label 1 that share half their voxels, and label 2 that shares none."""
    reference, prediction = np.zeros((2, 12, 12, 12), dtype=np.uint8)
    reference[2:6, 2:6, 2:6] = 1
    prediction[4:8, 2:6, 2:6] = 1
    reference[9, 9, 9] = 2
    prediction[10, 10, 10] = 2
    return reference, prediction


def score_one(reference, prediction, label=ONE, **options):
    return score_case(reference, prediction, labels=[label], spacing_mm=UNIT, **options)[0]


def test_half_overlapping_cubes_have_dice_one_half():
    scores = score_one(*make_pair())
    assert (scores.tp, scores.fp, scores.fn, scores.tn) == (32, 32, 32, 12**3 - 96)
    assert (scores.n_ref, scores.n_pred) == (64, 64)
    assert scores.dice == 0.5
    assert scores.iou == pytest.approx(1 / 3)


def test_labels_that_do_not_touch_score_zero():
    scores = score_one(*make_pair(), label=TWO)
    assert (scores.dice, scores.iou, scores.tp, scores.fp, scores.fn) == (0.0, 0.0, 0, 1, 1)


def test_a_region_counts_any_of_its_labels_as_one():
    reference, prediction = make_pair()
    prediction[2:4, 2:6, 2:6] = 2  # wrong label, right region
    scores = score_one(reference, prediction, label=WHOLE)
    assert (scores.tp, scores.fn, scores.fp) == (64, 1, 32 + 1)


def test_overlapping_regions_are_scored_independently():
    reference, prediction = make_pair()
    whole, one = score_case(reference, prediction, labels=[WHOLE, ONE], spacing_mm=UNIT)
    assert (whole.tp, one.tp) == (32, 32)
    assert whole.n_ref == one.n_ref + 1


def test_ignored_voxels_are_in_no_count():
    reference, prediction = make_pair()
    reference[6:8] = 3
    scores = score_one(reference, prediction, ignore=3)
    assert (scores.tp, scores.fp, scores.fn) == (32, 0, 32)
    assert scores.tp + scores.fp + scores.fn + scores.tn == 12**3 - 2 * 12 * 12


def test_ignored_voxels_have_no_surface():
    reference, prediction = make_pair()
    reference[0:4] = 3  # what is left of the reference is the overlap
    prediction[6:8] = 0
    scores = score_one(reference, prediction, ignore=3, tolerance_mm=0.0)
    assert scores.surface.nsd == 1.0
    assert scores.surface.hd95_mm == 0.0


def test_a_prediction_with_the_ignore_value_predicts_nothing_there():
    reference, prediction = make_pair()
    prediction[4:8, 2:6, 2:6] = 3
    scores = score_one(reference, prediction, ignore=3)
    assert (scores.tp, scores.fn, scores.n_pred) == (0, 64, 0)


def test_both_empty_is_nan_and_one_empty_is_zero():
    empty, full = np.zeros((4, 4, 4), dtype=np.uint8), np.ones((4, 4, 4), dtype=np.uint8)
    both = score_one(empty, empty, tolerance_mm=1.0)
    assert np.isnan([both.dice, both.iou, both.surface.nsd, both.surface.hd95_mm]).all()
    for reference, prediction in ((empty, full), (full, empty)):
        one = score_one(reference, prediction, tolerance_mm=1.0)
        assert (one.dice, one.iou, one.surface.nsd, one.surface.hd95_mm) == (0.0, 0.0, 0.0, np.inf)


def test_an_absent_label_scores_like_one_that_was_looked_for():
    empty = np.zeros((4, 4, 4), dtype=np.uint8)
    assert str(score_empty_label(num_voxels=64, with_surface=True)) == str(score_one(empty, empty, tolerance_mm=1.0))
    assert str(score_empty_label(num_voxels=64, with_surface=False)) == str(score_one(empty, empty))
    assert str(score_empty_label(num_voxels=64, with_surface=False, with_lesions=True)) == str(
        score_one(empty, empty, lesion_rule=LesionRule())
    )


def test_volume_is_in_millilitres():
    reference, prediction = make_pair()
    prediction[prediction == 1] = 0
    (scores,) = score_case(reference, prediction, labels=[ONE], spacing_mm=(5.0, 2.0, 2.0))
    assert scores.volume_ref_ml == pytest.approx(64 * 20 / 1000)
    assert scores.volume_pred_ml == 0.0


def test_the_volume_error_has_a_sign():
    reference, prediction = make_pair()
    prediction[4:6] = 0  # the half that overlaps
    (scores,) = score_case(reference, prediction, labels=[ONE], spacing_mm=(5.0, 2.0, 2.0))
    assert scores.volume_error_ml == pytest.approx(-32 * 20 / 1000)
    assert scores.volume_error_relative == pytest.approx(-0.5)


def test_the_volume_error_of_an_absent_label_is_no_number():
    empty, full = np.zeros((4, 4, 4), dtype=np.uint8), np.ones((4, 4, 4), dtype=np.uint8)
    both, invented, missed = (score_one(*maps) for maps in ((empty, empty), (empty, full), (full, empty)))
    assert np.isnan([both.volume_error_ml, both.volume_error_relative]).all()
    assert (invented.volume_error_ml, invented.volume_error_relative) == (pytest.approx(0.064), np.inf)
    assert (missed.volume_error_ml, missed.volume_error_relative) == (pytest.approx(-0.064), -1.0)


def test_lesions_are_scored_per_label_and_region_only_when_asked_for():
    reference, prediction = make_pair()
    assert score_one(reference, prediction).lesions is None
    one, two, whole = score_case(
        reference, prediction, labels=[ONE, TWO, WHOLE], spacing_mm=UNIT, lesion_rule=LesionRule()
    )
    assert [(s.lesions.tp, s.lesions.fp, s.lesions.fn) for s in (one, two, whole)] == [(1, 0, 0), (0, 1, 1), (1, 1, 1)]
    (large,) = score_case(
        reference, prediction, labels=[WHOLE], spacing_mm=UNIT, lesion_rule=LesionRule(min_size_mm3=2.0)
    )
    assert (large.lesions.tp, large.lesions.fp, large.lesions.fn) == (1, 0, 0)


def test_cropping_does_not_change_the_surface_scores():
    generator = np.random.default_rng(1)
    reference = (generator.random((20, 21, 22)) > 0.995).astype(np.uint8) * 2
    prediction = (generator.random((20, 21, 22)) > 0.99).astype(np.uint8) * 2
    reference[:3], reference[:, 15:], prediction[:, :, :4] = 0, 0, 0
    expected = score_surfaces(reference == 2, prediction == 2, spacing_mm=(2.0, 1.0, 1.5), tolerance_mm=1.0)
    (scores,) = score_case(reference, prediction, labels=[TWO], spacing_mm=(2.0, 1.0, 1.5), tolerance_mm=1.0)
    assert scores.surface == expected


def test_a_flat_image_has_no_surface_across_its_slice():
    reference, prediction = np.zeros((2, 1, 20, 20), dtype=np.uint8)
    reference[0, 2:12, 2:12] = 1
    prediction[0, 2:12, 2:13] = 1
    scores = score_one(reference, prediction, tolerance_mm=0.0)
    # Outlines of 36 and 38 mm and four cut corners each. Apart are nine elements of the right side, and in the
    # prediction its two corners too.
    assert scores.surface.nsd == pytest.approx(1 - (9 + 9 + 2**0.5) / (36 + 38 + 4 * 2**0.5))


def test_a_label_that_fills_the_image_is_found():
    full = np.ones((4, 4, 4), dtype=np.uint8)
    scores = score_one(full, full, tolerance_mm=0.0)
    assert (scores.dice, scores.tn, scores.surface.nsd) == (1.0, 0, 1.0)


def test_label_ids_up_to_65535_are_scored():
    reference, prediction = np.zeros((2, 4, 4, 4), dtype=np.uint16)
    reference[0], prediction[0, :2] = 65535, 65535
    label = Label(key="65535", name="last", values=(65535,))
    assert score_one(reference, prediction, label=label, tolerance_mm=1.0).dice == pytest.approx(2 * 8 / 24)


def test_values_are_found_without_sorting_the_voxels():
    label_map = np.array([[[0, 7, 7], [3, 0, 300]]], dtype=np.uint16)
    assert find_values(label_map).tolist() == [0, 3, 7, 300]
    assert find_values(np.zeros((2, 2, 2), dtype=np.uint8)).tolist() == [0]
    assert find_values(np.full((2, 2, 2), 5, dtype=np.uint8)).tolist() == [5]


def test_pairs_are_counted_across_slabs(monkeypatch):
    generator = np.random.default_rng(0)
    reference, prediction = generator.integers(0, 4, (2, 17, 5, 6)).astype(np.uint16)
    whole = count_pairs(reference, prediction, num_values=4)
    monkeypatch.setattr("stu_pipeline.evaluation.metrics._SLAB_VOXELS", 100)
    np.testing.assert_array_equal(count_pairs(reference, prediction, num_values=4), whole)
    assert whole[2, 3] == np.sum((reference == 2) & (prediction == 3))
    assert whole.sum() == reference.size


def test_positions_stand_for_values():
    values = np.array([0, 3, 300])
    label_map = np.array([[[300, 0, 3]]], dtype=np.uint16)
    assert index_values(label_map, values).tolist() == [[[2, 0, 1]]]
