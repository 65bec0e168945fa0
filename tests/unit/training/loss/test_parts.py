"""Losses of the parts of a batch add up to the loss of the batch."""

import pytest
import torch

from stu_pipeline.training.loss.parts import BatchCounts, DiceSums, WholeBatch
from stu_pipeline.training.loss.segmentation import build_loss
from tests.unit.training.loss.conftest import KINDS, make_batch, score

SPLITS = [(1, 1, 1, 1, 1), (2, 3), (4, 1)]


def split(levels, sizes):
    return list(zip(*(level.split(sizes) for level in levels), strict=True))


def sum_whole(loss, parts):
    """Sum counts and Dice sums over parts."""
    counts, *more_counts = (loss.count(targets) for _, targets in parts)
    dice, *more_dice = (loss.sum_dice(outputs, targets) for outputs, targets in parts)
    return WholeBatch(counts=sum(more_counts, start=counts), dice=sum(more_dice, start=dice))


def require_parts_add_up(loss, outputs, targets, scored_parts):
    expected, gradients = score(loss, outputs, targets)
    torch.testing.assert_close(sum(value for value, _ in scored_parts), expected)
    for level, gradient in enumerate(gradients):
        found = torch.cat([part[level] for _, part in scored_parts])
        torch.testing.assert_close(found, gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("sizes", SPLITS)
@pytest.mark.parametrize("kind", KINDS)
def test_parts_add_up_to_the_batch(kind, sizes):
    loss = build_loss(**kind, num_levels=3)
    outputs, targets = make_batch(**kind, num_levels=3)
    parts = list(zip(split(outputs, sizes), split(targets, sizes), strict=True))
    whole = sum_whole(loss, parts)
    require_parts_add_up(loss, outputs, targets, [score(loss, *part, whole) for part in parts])


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_of_one_part_each_need_one_sum_over_ranks(kind):
    loss = build_loss(**kind, num_levels=3)
    outputs, targets = make_batch(**kind, num_levels=3)
    parts = list(zip(split(outputs, (2, 3)), split(targets, (2, 3)), strict=True))
    sent = []

    def send(tensor):
        sent.append(tensor.clone())
        return tensor

    for part in parts:
        score(loss, *part, WholeBatch(reduce=send))
    assert len(sent) == 2
    ranks = WholeBatch(reduce=lambda tensor: tensor.copy_(sent[0] + sent[1]))
    require_parts_add_up(loss, outputs, targets, [score(loss, *part, ranks) for part in parts])


def test_known_counts_are_not_summed_over_ranks_again():
    loss = build_loss(regions=False, batch_dice=False)
    (outputs, _), (targets, _) = make_batch(regions=False)

    def refuse(_):
        raise RuntimeError("summed again")

    alone = loss(outputs, targets)
    assert loss(outputs, targets, WholeBatch(counts=loss.count(targets), reduce=refuse)) == alone


def test_counts_and_sums_are_summed_over_ranks_in_one_call_each():
    calls = []

    def double(tensor):
        calls.append(tensor.shape)
        return tensor.mul_(2)

    counts = BatchCounts(torch.tensor(2.0), torch.tensor([30.0, 4.0]), torch.tensor([2.0, 0.0, 1.0]))
    total = counts.sum_over_ranks(double)
    assert (total.samples, total.terms.tolist(), total.marking.tolist()) == (4, [60, 8], [4, 0, 2])
    dice = DiceSums(torch.ones(2, 3, 4))
    assert (dice.sum_over_ranks(double).values == 2).all()
    assert (counts.samples, dice.values.max()) == (2, 1)
    assert calls == [(6,), (2, 3, 4)]


def test_batch_dice_in_parts_needs_the_sums_of_the_batch():
    loss = build_loss(regions=False, batch_dice=True)
    (outputs, _), (targets, _) = make_batch(regions=False)
    with pytest.raises(ValueError, match="needs the Dice sums of the whole batch"):
        loss(outputs, targets, WholeBatch(counts=loss.count(targets)))


def test_batch_dice_per_part_is_the_mean_over_parts():
    loss = build_loss(regions=False, batch_dice=True)
    (outputs, _), (targets, _) = make_batch(regions=False)
    parts = [(outputs[rows], targets[rows]) for rows in (slice(0, 2), slice(2, 4))]
    whole = WholeBatch(counts=sum_whole(loss, parts).counts, is_dice_per_part=True)
    alone, found = ([score(loss, [output], [target], way) for output, target in parts] for way in (None, whole))
    torch.testing.assert_close(found[0][0] + found[1][0], (alone[0][0] + alone[1][0]) / 2)
    for (_, (mine,)), (_, (theirs,)) in zip(found, alone, strict=True):
        torch.testing.assert_close(mine, theirs / 2)


def test_a_part_without_any_voxel_that_counts_is_finite_and_adds_its_dice_only():
    loss = build_loss(regions=False, batch_dice=False, ignore_label=3)
    outputs = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([1, 3]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    whole = WholeBatch(counts=loss.count(targets))
    value, (gradient,) = score(loss, [outputs[1:]], [targets[1:]], whole)
    assert value == -0.5
    assert (gradient == 0).all()
