"""Our loss has the values and gradients of the loss that nnU-Net's trainer builds."""

import itertools

import pytest
import torch

from stu_pipeline.training.loss.parts import WholeBatch
from stu_pipeline.training.loss.segmentation import build_loss
from tests import engine_loss
from tests.engine_loss import LEVEL_WEIGHTS

SIZES = {3: [(15, 16, 17), (8, 8, 9), (4, 4, 5), (2, 2, 3), (1, 1, 2)], 2: [(30, 33), (15, 17), (8, 9), (4, 5), (2, 3)]}
FLAGS = list(itertools.product((False, True), repeat=2))


def make_labels(num_labels, *, dims=3, samples=2, ignore_label=None, absent=(), seed=0):
    """Make logits and label targets of five levels."""
    generator = torch.Generator().manual_seed(seed)
    outputs, targets = [], []
    for size in SIZES[dims]:
        outputs.append(3 * torch.randn(samples, num_labels, *size, generator=generator))
        target = torch.randint(0, num_labels, (samples, 1, *size), generator=generator)
        for label in absent:
            target[target == label] = 0
        if ignore_label is not None:
            # Ever more of it from sample to sample.
            share = torch.linspace(0.1, 0.9, samples).view(samples, 1, *([1] * dims))
            target[torch.rand(target.shape, generator=generator) < share] = ignore_label
        targets.append(target.short())
    return outputs, targets


def make_regions(num_regions, *, dims=3, samples=2, has_ignore=False, seed=0):
    """Make logits and region targets of five levels; the last region is absent."""
    generator = torch.Generator().manual_seed(seed)
    outputs, targets = [], []
    for size in SIZES[dims]:
        outputs.append(3 * torch.randn(samples, num_regions, *size, generator=generator))
        target = torch.rand(samples, num_regions + has_ignore, *size, generator=generator) < 0.3
        target[:, num_regions - 1] = False
        targets.append(target)
    return outputs, targets


def build_both(**settings):
    """Return our loss and nnU-Net's."""
    ignore_label = settings.get("ignore_label")
    regions = settings.get("regions", False)
    if regions and ignore_label is not None:
        stock = engine_loss.build_loss(**(settings | {"ignore_label": None}))
        stock.loss.use_ignore_label = True
        stock.loss.ce = torch.nn.BCEWithLogitsLoss(reduction="none")
    else:
        stock = engine_loss.build_loss(**settings)
    ours = {"regions": regions, "batch_dice": False, "ignore_label": None} | settings
    return build_loss(**ours, num_levels=len(LEVEL_WEIGHTS)), stock


def score(loss, outputs, targets, *more):
    outputs = [output.clone().requires_grad_() for output in outputs]
    value = loss(outputs, targets, *more)
    return value.detach(), torch.autograd.grad(value, outputs[:-1], allow_unused=True)


def require_equal(found, expected, *, rtol=1e-5, atol=1e-6):
    """Compare losses, and gradients relative to the largest of their level."""
    torch.testing.assert_close(found[0], expected[0], rtol=rtol, atol=atol)
    for mine, theirs in zip(found[1], expected[1], strict=True):
        scale = theirs.abs().max().clamp_min(1e-30)
        torch.testing.assert_close(mine / scale, theirs / scale, rtol=rtol, atol=atol)


def score_parts(loss, outputs, targets, sizes):
    """Score a batch in parts, and put values and gradients together."""
    parts = list(
        zip(
            *(zip(*(level.split(sizes) for level in levels), strict=True) for levels in (outputs, targets)), strict=True
        )
    )
    counts, *more = (loss.count(part_targets) for _, part_targets in parts)
    dice = None
    if loss.needs_dice_sums:
        first, *rest = (loss.sum_dice(*part) for part in parts)
        dice = sum(rest, start=first)
    whole = WholeBatch(counts=sum(more, start=counts), dice=dice)
    scored = [score(loss, *part, whole) for part in parts]
    return sum(value for value, _ in scored), [
        torch.cat(levels) for levels in zip(*(g for _, g in scored), strict=True)
    ]


@pytest.mark.parametrize(("batch_dice", "is_ignored"), FLAGS)
@pytest.mark.parametrize(("num_labels", "dims"), [(2, 3), (3, 2), (5, 3), (40, 2), (105, 3)])
def test_labels_score_as_in_nnunet(num_labels, dims, batch_dice, is_ignored):
    ignore_label = num_labels if is_ignored else None
    ours, stock = build_both(batch_dice=batch_dice, ignore_label=ignore_label)
    batch = make_labels(num_labels, dims=dims, ignore_label=ignore_label)
    require_equal(score(ours, *batch), score(stock, *batch))


@pytest.mark.parametrize("batch_dice", [False, True])
def test_absent_labels_score_as_in_nnunet(batch_dice):
    ours, stock = build_both(batch_dice=batch_dice)
    batch = make_labels(6, absent=(1, 2, 5))
    require_equal(score(ours, *batch), score(stock, *batch))


@pytest.mark.parametrize("batch_dice", [False, True])
def test_a_batch_of_ignored_voxels_scores_as_in_nnunet(batch_dice):
    ours, stock = build_both(batch_dice=batch_dice, ignore_label=3)
    outputs, targets = make_labels(3)
    targets = [torch.full_like(target, 3) for target in targets]
    found, expected = (score(loss, outputs, targets) for loss in (ours, stock))
    assert found[0] == -1
    assert expected[0].item() == pytest.approx(-1)
    assert all((gradient == 0).all() for gradient in (*found[1], *expected[1]))


@pytest.mark.parametrize("batch_dice", [False, True])
def test_a_level_of_ignored_voxels_scores_as_in_nnunet(batch_dice):
    ours, stock = build_both(batch_dice=batch_dice, ignore_label=3)
    outputs, targets = make_labels(3, ignore_label=3)
    targets[1] = torch.full_like(targets[1], 3)
    require_equal(score(ours, outputs, targets), score(stock, outputs, targets))


@pytest.mark.parametrize(("batch_dice", "is_ignored"), FLAGS)
@pytest.mark.parametrize("dims", [2, 3])
def test_regions_score_as_in_nnunet(dims, batch_dice, is_ignored):
    ours, stock = build_both(regions=True, batch_dice=batch_dice, ignore_label=4 if is_ignored else None)
    batch = make_regions(3, dims=dims, has_ignore=is_ignored)
    require_equal(score(ours, *batch), score(stock, *batch))


@pytest.mark.parametrize("batch_dice", [False, True])
def test_regions_of_ignored_voxels_score_as_in_nnunet(batch_dice):
    ours, stock = build_both(regions=True, batch_dice=batch_dice, ignore_label=4)
    outputs, targets = make_regions(3, has_ignore=True)
    for target in targets:
        target[:, -1] = True
    found, expected = (score(loss, outputs, targets) for loss in (ours, stock))
    assert found[0] == -1
    assert expected[0].item() == pytest.approx(-1)
    assert all((gradient == 0).all() for gradient in (*found[1], *expected[1]))


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 3), (3, 1)])
@pytest.mark.parametrize(("batch_dice", "is_ignored"), FLAGS)
def test_parts_of_labels_add_up_to_nnunets_batch(batch_dice, is_ignored, sizes):
    ours, stock = build_both(batch_dice=batch_dice, ignore_label=4 if is_ignored else None)
    batch = make_labels(4, samples=4, ignore_label=4 if is_ignored else None)
    require_equal(score_parts(ours, *batch, sizes), score(stock, *batch))


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 3)])
@pytest.mark.parametrize(("batch_dice", "is_ignored"), FLAGS)
def test_parts_of_regions_add_up_to_nnunets_batch(batch_dice, is_ignored, sizes):
    ours, stock = build_both(regions=True, batch_dice=batch_dice, ignore_label=4 if is_ignored else None)
    batch = make_regions(3, samples=4, has_ignore=is_ignored)
    require_equal(score_parts(ours, *batch, sizes), score(stock, *batch))


def test_a_part_of_ignored_voxels_adds_up_to_nnunets_batch():
    ours, stock = build_both(ignore_label=4)
    outputs, targets = make_labels(4, samples=3, ignore_label=4)
    for target in targets:
        target[1] = 4
    require_equal(score_parts(ours, outputs, targets, (1, 1, 1)), score(stock, outputs, targets))


@pytest.mark.parametrize("regions", [False, True])
def test_bf16_logits_score_as_their_float32_values_in_nnunet(regions):
    ours, stock = build_both(regions=regions)
    outputs, targets = make_regions(3) if regions else make_labels(3)
    outputs = [output.bfloat16() for output in outputs]
    value, gradients = score(ours, outputs, targets)
    expected = score(stock, [output.float() for output in outputs], targets)
    require_equal((value, []), (expected[0], []))
    for mine, theirs in zip(gradients, expected[1], strict=True):
        assert mine.dtype == torch.bfloat16
        scale = theirs.abs().max()
        torch.testing.assert_close(mine.float() / scale, theirs / scale, rtol=2**-8, atol=1e-6)


def test_a_single_output_scores_as_in_nnunet_without_deep_supervision():
    _, stock = build_both()
    outputs, targets = make_labels(3)
    ours = build_loss(regions=False, batch_dice=False)
    found, expected = ours(outputs[0], targets[0]), stock.loss(outputs[0], targets[0])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
