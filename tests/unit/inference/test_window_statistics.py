"""The bound on what is not looked at holds as often as it says."""

import random

import pytest

from stu_pipeline.inference.window_statistics import WindowStatistics, bound_mean


def test_without_a_change_the_bound_is_the_exact_binomial_one():
    for count in (1, 10, 59, 1000):
        assert bound_mean(0.0, count) == pytest.approx(1 - 0.05 ** (1 / count), rel=1e-6)


def test_the_bound_lies_above_the_mean_and_falls_with_more_tiles():
    bounds = [bound_mean(0.01, count) for count in (1, 10, 100, 1000, 100_000)]
    assert bounds == sorted(bounds, reverse=True)
    assert 0.01 < bounds[-1] < 0.0115
    assert bound_mean(1.0, 5) == 1.0


@pytest.mark.parametrize("share", [0.002, 0.05, 0.5])
@pytest.mark.parametrize("count", [5, 60])
def test_the_bound_fails_in_at_most_one_case_of_twenty(share, count):
    """Tiles change everywhere or nowhere, which is the hardest case for a bound on a mean."""
    draw = random.Random(0)
    trials = 1500
    failures = sum(
        bound_mean(sum(draw.random() < share for _ in range(count)) / count, count) < share for _ in range(trials)
    )
    assert failures / trials <= 0.05 + 0.012


def test_the_bound_is_one_without_audited_tiles_and_zero_without_sure_ones():
    assert WindowStatistics(tiles=9, tiles_skipped=3).changed_share_bound == 1.0
    assert WindowStatistics(tiles=9).changed_share_bound == 0.0
    assert WindowStatistics(tiles=9).changed_share is None


def test_cases_are_added_up():
    total = WindowStatistics()
    for _ in range(3):
        total.add(
            WindowStatistics(
                passes_run=5,
                passes_full=10,
                tiles=4,
                tiles_skipped=2,
                tiles_audited=1,
                tiles_changed=1,
                changed_shares=0.25,
                tiles_by_stage={"plain copies": 4, "mirrored copies": 2},
            )
        )
    assert total.passes_share == 0.5
    assert total.changed_share == 0.25
    assert (total.tiles, total.tiles_skipped, total.tiles_audited, total.tiles_changed) == (12, 6, 3, 3)
    assert total.tiles_by_stage == {"plain copies": 12, "mirrored copies": 6}


def test_nothing_run_is_nothing_saved():
    assert WindowStatistics().passes_share == 1.0
