"""Who does what: slots, cases, and the rule for more ranks than the batch has samples."""

from __future__ import annotations

import doctest

import pytest

from stu_pipeline.errors import UsageError
from stu_pipeline.training.parallel import shares
from stu_pipeline.training.parallel.shares import (
    choose_batch_rule,
    list_slots,
    require_even_shares,
    take_share,
)


@pytest.mark.parametrize(("batch", "world_size"), [(2, 1), (2, 2), (5, 2), (7, 3), (8, 8)])
def test_every_slot_belongs_to_one_rank(batch, world_size):
    dealt = [list(list_slots(batch, rank, world_size)) for rank in range(world_size)]
    assert sorted(slot for own in dealt for slot in own) == list(range(batch))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.parametrize(("batch", "rank", "world_size"), [(2, 2, 2), (1, 0, 2), (2, -1, 2)])
def test_a_rank_without_a_slot_is_a_mistake(batch, rank, world_size):
    with pytest.raises(ValueError, match="has no slot"):
        list_slots(batch, rank, world_size)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_up_to_the_plans_batch_nothing_changes(world_size):
    rule = choose_batch_rule(4, world_size, lr_given=False, num_epochs=1000)
    assert (rule.batch, rule.learning_rate_factor, rule.warmup_epochs) == (4, 1.0, 0.0)
    assert "batch 4 as planned" in rule.sentence


@pytest.mark.parametrize(("world_size", "factor"), [(3, 1.5), (8, 4.0), (16, 8.0)])
def test_more_ranks_than_samples_grow_the_batch_and_the_learning_rate(world_size, factor):
    rule = choose_batch_rule(2, world_size, lr_given=False, num_epochs=200)
    assert (rule.batch, rule.learning_rate_factor, rule.warmup_epochs) == (world_size, factor, 10.0)
    assert f"batch {world_size} instead of 2" in rule.sentence and f"x{factor:g}" in rule.sentence
    assert all(len(list_slots(rule.batch, rank, world_size)) == 1 for rank in range(world_size))


def test_a_given_learning_rate_is_taken_as_it_is():
    rule = choose_batch_rule(2, 8, lr_given=True, num_epochs=1000)
    assert (rule.batch, rule.learning_rate_factor, rule.warmup_epochs) == (8, 1.0, 0.0)
    assert "as given" in rule.sentence


def test_cases_are_dealt_out_once_each():
    cases = ["a", "b", "c", "d", "e"]
    assert [take_share(cases, rank, 2) for rank in range(2)] == [["a", "c", "e"], ["b", "d"]]
    assert take_share(["a"], 1, 2) == []


def test_sharded_networks_want_even_shares():
    require_even_shares(8, 4)
    with pytest.raises(UsageError, match=r"got 6 for 4 ranks") as caught:
        require_even_shares(6, 4)
    assert caught.value.hint == "--gpus 3"


def test_the_examples_hold():
    assert doctest.testmod(shares).failed == 0
    assert doctest.testmod(shares).attempted > 0
