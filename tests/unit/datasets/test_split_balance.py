"""Dealing groups to folds: sizes, labels, and the same result everywhere."""

from __future__ import annotations

import random

import pytest

from stu_pipeline.datasets.splits.balance import Group, count_unreached, deal_groups

SEEDS = range(25)


def make_groups(seed, *, num_groups, label_shares, sizes=(1,)):
    generator = random.Random(seed)
    return [
        Group(
            name=f"g{index:03d}",
            num_cases=generator.choice(sizes),
            labels=frozenset(label for label, share in enumerate(label_shares, 1) if generator.random() < share),
        )
        for index in range(num_groups)
    ]


def count_per_fold(groups, dealt, num_folds, weigh=lambda group: 1):
    totals = [0] * num_folds
    for group in groups:
        totals[dealt[group.name]] += weigh(group)
    return totals


@pytest.mark.parametrize("seed", SEEDS)
def test_every_label_with_enough_groups_is_in_every_fold(seed):
    # As in a real set: frequent organs, rare findings, 3 to 6 folds.
    groups = make_groups(seed, num_groups=60, label_shares=(1, 0.9, 0.5, 0.3, 0.2, 0.15, 0.1), sizes=(1, 1, 2, 3))
    num_folds = 3 + seed % 4
    dealt = deal_groups(groups, num_folds, seed=12345)
    assert count_unreached(groups, dealt, num_folds) == {}
    for label in range(1, 8):
        owners = [group for group in groups if label in group.labels]
        assert len({dealt[group.name] for group in owners}) == min(num_folds, len(owners))


@pytest.mark.parametrize("seed", SEEDS)
def test_folds_differ_by_one_group_at_most(seed):
    generator = random.Random(seed)
    num_groups = generator.randint(2, 40)
    num_folds = generator.randint(2, num_groups)
    groups = make_groups(seed, num_groups=num_groups, label_shares=(0.8, 0.4, 0.1), sizes=(1, 2, 5))
    sizes = count_per_fold(groups, deal_groups(groups, num_folds, seed=1), num_folds)
    assert sum(sizes) == num_groups and max(sizes) - min(sizes) <= 1


def test_frequent_labels_are_shared_evenly():
    groups = make_groups(3, num_groups=50, label_shares=(0.5, 0.4))
    dealt = deal_groups(groups, 5, seed=12345)
    for label in (1, 2):
        shares = count_per_fold(groups, dealt, 5, lambda group, label=label: label in group.labels)
        assert max(shares) - min(shares) <= 1


def test_cases_are_shared_evenly_when_groups_have_many():
    groups = [Group(name=f"p{index}", num_cases=size) for index, size in enumerate([10, 9, 8, 7, 6, 5, 4, 3, 2, 1])]
    cases = count_per_fold(groups, deal_groups(groups, 5, seed=12345), 5, lambda group: group.num_cases)
    assert cases == [11, 11, 11, 11, 11]


def test_the_order_of_the_groups_does_not_matter_and_the_seed_does():
    groups = make_groups(5, num_groups=30, label_shares=(0.5, 0.2))
    shuffled = random.Random(1).sample(groups, len(groups))
    assert deal_groups(shuffled, 5, seed=12345) == deal_groups(groups, 5, seed=12345)
    assert deal_groups(groups, 5, seed=12346) != deal_groups(groups, 5, seed=12345)


def test_the_deal_is_the_same_on_every_machine():
    groups = make_groups(7, num_groups=8, label_shares=(0.5, 0.3))
    assert list(deal_groups(groups, 3, seed=12345).values()) == [2, 0, 1, 1, 2, 0, 0, 1]


def test_labels_that_exclude_each_other_are_counted_not_hidden():
    # Three labels, each in two of three groups: two folds cannot both have all of them.
    groups = [
        Group(name=name, num_cases=1, labels=frozenset(labels))
        for name, labels in {"a": {1, 2}, "b": {2, 3}, "c": {1, 3}}.items()
    ]
    assert sum(count_unreached(groups, deal_groups(groups, 2, seed=12345), 2).values()) == 1


def test_a_deal_that_greed_misses_is_found_by_swapping():
    groups = make_groups(291, num_groups=44, label_shares=[(index % 7 + 1) / 9 for index in range(24)])
    assert count_unreached(groups, deal_groups(groups, 9, seed=12345), 9) == {}
