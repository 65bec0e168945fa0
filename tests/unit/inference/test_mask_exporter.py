import itertools

import numpy as np
import pytest
import torch

from stu_pipeline.errors import NonFiniteError
from stu_pipeline.inference.case_grid import Decision
from stu_pipeline.inference.mask_exporter import MaskExporter
from tests.dense_export import cut_slabs, export_densely, make_grid

CPU = torch.device("cpu")
LABELS, MANY = Decision(num_outputs=5), Decision(num_outputs=12)
REGIONS = Decision(num_outputs=4, region_values=(1, 4, 2, 300))
CASES = [(decision, axis) for decision in (LABELS, MANY, REGIONS) for axis in range(3)]


def export(scores, grid, decision, axis=0, thickness=2):
    exporter = MaskExporter(grid, decision, axis=axis, device=CPU)
    for slab in cut_slabs(scores, axis, thickness):
        exporter.add(slab)
    return exporter.finish()


def check(scores, grid, decision, axis=0, thickness=2):
    mask = export(scores, grid, decision, axis, thickness)
    expected = export_densely(scores, grid, decision)
    assert mask.shape == expected.shape
    assert np.count_nonzero(mask != expected) == 0


def make_scores(decision, shape, seed=0):
    return np.random.default_rng(seed).normal(size=(decision.num_outputs, *shape)).astype(np.float32)


def draw_case(rng):
    """Draw shapes, box, axes, orders, labels and scores; half of the scores are small whole numbers, full of ties."""
    orders = {
        "order": int(rng.choice([1, 1, 1, 0])),
        "separate_axis": [None, 0, 1, 2][rng.integers(4)],
        "separate_order": int(rng.integers(2)),
    }
    network, cropped = rng.integers(1, 9, 3).tolist(), rng.integers(1, 20, 3).tolist()
    margin, backward = rng.integers(0, 3, (3, 2)).tolist(), rng.permutation(3).tolist()
    grid = make_grid(network, cropped, margin=margin, backward=backward, **orders)
    count = int(rng.integers(1, 8)) if rng.random() < 0.6 else int(rng.integers(9, 40))
    values = tuple(rng.integers(1, 400, count).tolist()) if rng.random() < 0.4 else None
    scores = rng.normal(size=(count, *network)).astype(np.float32)
    if rng.random() < 0.3:  # a clear winner nearly everywhere, as of a trained network
        np.put_along_axis(
            scores,
            rng.integers(0, count, (1, *(n // 3 + 1 for n in network)))
            .repeat(3, 1)
            .repeat(3, 2)
            .repeat(3, 3)[:, : network[0], : network[1], : network[2]],
            6,
            axis=0,
        )
    return grid, Decision(num_outputs=count, region_values=values), np.round(scores) if rng.random() < 0.5 else scores


@pytest.mark.parametrize("block", range(6))
def test_random_cases_are_identical_to_all_channels_resampled(block):
    rng = np.random.default_rng(block)
    for _ in range(50):
        grid, decision, scores = draw_case(rng)
        check(scores, grid, decision, int(rng.integers(3)), rng.integers(1, 5, 3).tolist())


@pytest.mark.parametrize(("decision", "axis"), CASES)
def test_smooth_scores_are_identical_along_every_walk_axis(decision, axis):
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (14, 17, 11)), indexing="ij")
    waves = [np.sin(3 * (k + 1) * z) + np.cos(2 * k * y) * x for k in range(decision.num_outputs)]
    check(np.float32(waves), make_grid((14, 17, 11), (31, 24, 29)), decision, axis, [5, 1])


@pytest.mark.parametrize("magnitude", [1e-42, 1e-30, 1e-6, 1.0, 1e4, 1e25, 3e38])
@pytest.mark.parametrize("decision", [LABELS, MANY, REGIONS], ids=["labels", "many", "regions"])
def test_scores_that_differ_by_a_rounding_error_are_identical(decision, magnitude):
    # One value everywhere, moved by a few units in its last place: ties appear and vanish with the rounding.
    rng = np.random.default_rng(1)
    base = np.full((decision.num_outputs, 6, 7, 5), magnitude, dtype=np.float32)
    bits = base.view(np.int32) + rng.integers(-2, 3, base.shape, dtype=np.int32)
    scores = bits.view(np.float32) * rng.choice(np.float32([-1, 1]), (1, 6, 7, 5))
    for cropped in ((15, 13, 12), (5, 6, 4), (18, 21, 15)):
        check(scores, make_grid((6, 7, 5), cropped), decision)


def test_a_label_that_is_ahead_by_a_rounding_error_everywhere_is_decided_by_the_reference():
    # The higher label is larger at every corner; rounding makes means equal here and there: then the lower one wins.
    lower = np.random.default_rng(2).uniform(1, 2, (6, 6, 6)).astype(np.float32)
    scores = np.stack([lower, np.nextafter(lower, np.float32(3))])
    grid = make_grid((6, 6, 6), (17, 16, 15))
    check(scores, grid, Decision(num_outputs=2))
    assert len(np.unique(export(scores, grid, Decision(num_outputs=2)))) == 2


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -7.5])
def test_constant_scores_give_the_lowest_label_and_regions_above_zero(value):
    grid = make_grid((4, 5, 6), (9, 9, 9))
    for decision, expected in ((LABELS, 0), (REGIONS, 300 if value > 0 else 0)):
        mask = export(np.full((decision.num_outputs, 4, 5, 6), value, dtype=np.float32), grid, decision)
        assert (mask == expected).all()


def test_tiny_positive_scores_of_regions_are_decided_by_the_reference():
    scores = np.random.default_rng(3).choice(np.float32([1e-45, 1e-38, -1e-45, 0]), (4, 5, 6, 7))
    check(scores, make_grid((5, 6, 7), (12, 11, 20)), REGIONS)
    # Above 0 at all corners, and yet their mean rounds to 0 in places.
    check(np.full((4, 5, 6, 7), 1e-45, dtype=np.float32), make_grid((5, 6, 7), (12, 11, 20)), REGIONS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_as_float32(dtype):
    grid, scores = make_grid((5, 6, 7), (11, 9, 16)), torch.from_numpy(make_scores(LABELS, (5, 6, 7))).to(dtype)
    for axis in range(3):
        assert np.array_equal(export(scores, grid, LABELS, axis), export_densely(scores.float(), grid, LABELS))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slabs_may_be_overwritten_after_they_were_added(axis):
    grid, scores = make_grid((8, 9, 7), (20, 13, 18)), make_scores(LABELS, (8, 9, 7))
    exporter = MaskExporter(grid, LABELS, axis=axis, device=CPU)
    for slab in cut_slabs(scores.copy(), axis, 3):
        exporter.add(slab)
        slab.scores.fill_(torch.nan)
    assert np.array_equal(exporter.finish(), export_densely(scores, grid, LABELS))


@pytest.mark.parametrize("backward", list(itertools.permutations(range(3))))
def test_the_mask_lies_on_the_images_grid(backward):
    margin = ((1, 0), (2, 3), (0, 4))
    for cropped in ((7, 8, 9), (4, 5, 6)):
        grid = make_grid((4, 5, 6), cropped, margin=margin, backward=backward)
        check(make_scores(LABELS, (4, 5, 6)), grid, LABELS)
        assert export(make_scores(LABELS, (4, 5, 6)), grid, LABELS).flags.c_contiguous


def test_many_labels_with_mostly_two_in_play_are_identical():
    rng = np.random.default_rng(4)
    owner = rng.integers(0, 300, (3, 3, 3)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    scores = rng.normal(0, 0.3, (300, 12, 12, 12)).astype(np.float32)
    np.put_along_axis(scores, owner[None], 8, axis=0)
    grid, decision = make_grid((12, 12, 12), (25, 29, 27)), Decision(num_outputs=300)
    check(scores, grid, decision, 2, 5)
    assert export(scores, grid, decision).dtype == np.uint16


def test_the_type_of_the_mask_follows_its_largest_value():
    grid = make_grid((2, 2, 2), (3, 3, 3))
    for decision, dtype in (
        (Decision(num_outputs=256), np.uint8),
        (Decision(num_outputs=257), np.uint16),
        (Decision(num_outputs=1, region_values=(255,)), np.uint8),
        (Decision(num_outputs=1, region_values=(65535,)), np.uint16),
    ):
        scores = np.zeros((decision.num_outputs, 2, 2, 2), dtype=np.float32)
        scores[-1] = 1
        mask = export(scores, grid, decision)
        assert mask.dtype == dtype
        assert mask.max() == (decision.region_values or (decision.num_outputs - 1,))[-1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("decision", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("cropped", [(9, 9, 9), (4, 4, 4)], ids=["resampled", "same"])
def test_one_score_that_is_not_finite_is_an_error(cropped, decision, bad):
    for channel in range(decision.num_outputs):
        scores = make_scores(decision, (4, 4, 4))
        scores[channel, 2, 1, 3] = bad
        with pytest.raises(NonFiniteError, match="NaN or infinity"):
            export(scores, make_grid((4, 4, 4), cropped), decision)


def test_a_mask_is_not_given_away_before_all_its_planes_are_painted():
    exporter = MaskExporter(make_grid((4, 4, 4), (9, 9, 9)), LABELS, axis=0, device=CPU)
    exporter.add(next(cut_slabs(make_scores(LABELS, (4, 4, 4)), 0, 3)))
    with pytest.raises(ValueError, match="of 9 planes were painted"):
        exporter.finish()
