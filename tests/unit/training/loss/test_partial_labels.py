"""A label that is not marked in a sample is to the loss of this sample as if the network did not have it."""

import pytest
import torch
from torch.nn import functional

from stu_pipeline.training.loss.parts import WholeBatch
from stu_pipeline.training.loss.segmentation import build_loss
from tests.device_waits import RefuseWaiting
from tests.unit.training.loss.conftest import KINDS, make_batch, score

SMOOTH = 1e-5
# Of five samples. The first column is the background, or the first region.
LABEL_MARKS = [(1, 1, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0), (1, 0, 1)]
REGION_MARKS = [(1, 1, 0), (1, 0, 1), (0, 1, 1), (0, 1, 0), (1, 0, 1)]


def mark(rows):
    return torch.tensor(rows, dtype=torch.bool)


def choose_marks(kind):
    return mark(REGION_MARKS if kind["regions"] else LABEL_MARKS)


def remove_output(outputs, targets, index, *, regions):
    """Delete an output from the network and its label or region from the targets."""
    kept = [place for place in range(outputs[0].shape[1]) if place != index]
    outputs = [output[:, kept] for output in outputs]
    if regions:
        return outputs, [torch.cat([target[:, kept], target[:, 3:]], 1) for target in targets]
    return outputs, [
        torch.where(target == index, 0, torch.where(target == index + 1, index, target)) for target in targets
    ]


def score_densely(logits, target, marked, kind):
    """Return the loss of one level, one voxel map after the other."""
    num_samples, num_outputs = logits.shape[:2]
    ignore, first = kind["ignore_label"], 0 if kind["regions"] else 1
    maps, entropies = [], []
    num_voxels = num_terms = 0
    for sample in range(num_samples):
        kept = [index for index in range(num_outputs) if marked[sample, index]]
        valid = target[sample, -1] == 0 if kind["regions"] and ignore else torch.ones_like(logits[0, 0], dtype=bool)
        if kind["regions"]:
            truths = {index: target[sample, index] & valid for index in kept}
            chances = {index: logits[sample, index].sigmoid() * valid for index in kept}
            for index in kept:
                entropy = functional.binary_cross_entropy_with_logits(
                    logits[sample, index], truths[index].double(), reduction="none"
                )
                entropies.append((entropy * valid).sum())
            num_terms += int(valid.sum()) * len(kept)
        else:
            valid = valid if ignore is None else target[sample, 0] != ignore
            labels = torch.tensor([int(value) if int(value) in kept else 0 for value in target[sample, 0].flatten()])
            labels = labels.view(target.shape[2:])
            scores = logits[sample, kept].log_softmax(0)
            for place, index in enumerate(kept):
                entropies.append(-(scores[place] * (labels == index) * valid).sum())
            truths = {index: (labels == index) & valid for index in kept}
            chances = {index: scores[place].exp() * valid for place, index in enumerate(kept)}
        num_voxels += int(valid.sum())
        maps.append({index: (truths[index].double(), chances[index]) for index in kept if index >= first})
    groups = [maps] if kind["batch_dice"] else [[sample] for sample in maps]
    dice = sum(average_dice(group) for group in groups) / len(groups)
    is_mean_over_regions = kind["regions"] and ignore is None
    return sum(entropies) / (num_terms if is_mean_over_regions else num_voxels) - dice


def average_dice(samples):
    """Return the mean over the labels that any of these samples marks."""
    found = []
    for index in sorted({index for sample in samples for index in sample}):
        pairs = [sample[index] for sample in samples if index in sample]
        overlap = sum((truth * chance).sum() for truth, chance in pairs)
        size = sum((truth + chance).sum() for truth, chance in pairs)
        found.append((2 * overlap + SMOOTH) / (size + SMOOTH))
    return sum(found) / len(found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_samples_whose_networks_lack_the_unmarked_outputs(kind):
    (logits, _), (target, _) = make_batch(**kind)
    loss, marked = build_loss(**kind), choose_marks(kind)
    dense_logits = logits.clone().requires_grad_()
    dense = score_densely(dense_logits, target, marked, kind)
    (expected,) = torch.autograd.grad(dense, dense_logits)
    found = logits.clone().requires_grad_()
    value = loss(found, target, marked=marked)
    (gradient,) = torch.autograd.grad(value, found)
    assert float(value.detach()) == pytest.approx(float(dense.detach()), abs=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("unmarked", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_what_no_sample_marks_can_be_deleted_from_the_network(kind, unmarked):
    outputs, targets = make_batch(**kind, num_levels=3)
    small_kind = kind if kind["regions"] or kind["ignore_label"] is None else {**kind, "ignore_label": 2}
    small = remove_output(outputs, targets, unmarked, regions=kind["regions"])
    if small_kind is not kind:
        small = small[0], [torch.where(target == 3, 2, target) for target in small[1]]
    expected, gradients = score(build_loss(**small_kind, num_levels=3), *small)
    marked = torch.ones(5, 3, dtype=torch.bool)
    marked[:, unmarked] = False
    outputs = [output.requires_grad_() for output in outputs]
    value = build_loss(**kind, num_levels=3)(outputs, targets, marked=marked)
    found = torch.autograd.grad(value, outputs[:2])
    assert float(value.detach()) == pytest.approx(float(expected), abs=1e-10)
    kept = [index for index in range(3) if index != unmarked]
    for mine, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(mine[:, kept], theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_many_labels_of_which_a_few_are_marked_are_weighed_exactly(batch_dice):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 60, 6, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 8, (2, 1, 6, 6), generator=generator)
    marked = (torch.arange(60) < 8).expand(2, 60)
    loss = build_loss(regions=False, batch_dice=batch_dice)
    assert float(loss(logits, target, marked=marked)) == pytest.approx(float(loss(logits[:, :8], target)), abs=1e-12)


@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_an_unmarked_output_gets_exactly_no_gradient_and_changes_nothing(kind, dtype, is_last):
    (logits, _), (target, _) = make_batch(**kind)
    logits = logits.to(dtype)
    logits = logits.contiguous(memory_format=torch.channels_last_3d) if is_last else logits
    loss, marked = build_loss(**kind), choose_marks(kind)
    hidden = ~marked[:, :, None, None, None].expand_as(logits)
    values, gradients = [], []
    for filler in (0.0, 1e4, float("nan")):
        given = torch.where(hidden, filler, logits).requires_grad_()
        values.append(loss(given, target, marked=marked))
        gradients += torch.autograd.grad(values[-1], given)
    assert torch.isfinite(values[0]) and values[0] == values[1] == values[2]
    for gradient in gradients:
        assert gradient.dtype == dtype and (gradient[hidden] == 0).all()
        assert torch.equal(gradient, gradients[0])
    shown = gradients[0].abs().sum((2, 3, 4)) > 0
    # The last sample of a batch with an ignore label is ignored altogether.
    num_taught = 4 if kind["ignore_label"] and not kind["regions"] else 5
    assert torch.equal(shown[:num_taught], marked[:num_taught])


@pytest.mark.parametrize("kind", KINDS)
def test_where_all_is_marked_the_loss_is_the_usual_one(kind):
    loss = build_loss(**kind, num_levels=3)
    outputs, targets = make_batch(**kind, num_levels=3)
    expected, gradients = score(loss, outputs, targets)
    outputs = [output.requires_grad_() for output in outputs]
    value = loss(outputs, targets, marked=torch.ones(5, 3, dtype=torch.bool))
    assert float(value.detach()) == pytest.approx(float(expected), abs=1e-12)
    for mine, theirs in zip(torch.autograd.grad(value, outputs[:2]), gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-16)


def slice_levels(levels, rows):
    return [level[rows] for level in levels]


def score_part(loss, outputs, targets, marked, rows, whole):
    given = [output[rows].detach().clone().requires_grad_() for output in outputs]
    value = loss(given, slice_levels(targets, rows), whole, marked=marked[rows])
    return value.detach(), torch.autograd.grad(value, given[:2])


# In the second one each of two parts marks a label that the other does not.
PARTS = [[slice(0, 2), slice(2, 5)], [slice(0, 1), slice(1, 2), slice(2, 5)]]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_parts_add_up_to_the_batch(kind, parts):
    loss, marked = build_loss(**kind, num_levels=3), choose_marks(kind)
    outputs, targets = make_batch(**kind, num_levels=3)
    expected, gradients = score_part(loss, outputs, targets, marked, slice(0, 5), None)
    counts, *more_counts = (loss.count(slice_levels(targets, rows), marked=marked[rows]) for rows in parts)
    dice, *more_dice = (
        loss.sum_dice(slice_levels(outputs, rows), slice_levels(targets, rows), marked=marked[rows]) for rows in parts
    )
    whole = WholeBatch(counts=sum(more_counts, start=counts), dice=sum(more_dice, start=dice))
    scored = [score_part(loss, outputs, targets, marked, rows, whole) for rows in parts]
    torch.testing.assert_close(sum(value for value, _ in scored), expected, rtol=1e-12, atol=1e-14)
    for level, gradient in enumerate(gradients):
        found = torch.cat([part[level] for _, part in scored])
        torch.testing.assert_close(found, gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_tell_each_other_which_labels_they_mark_in_one_call(kind):
    loss, marked = build_loss(**kind, num_levels=3), choose_marks(kind)
    outputs, targets = make_batch(**kind, num_levels=3)
    parts, sent = [slice(0, 1), slice(1, 5)], []
    for rows in parts:
        score_part(loss, outputs, targets, marked, rows, WholeBatch(reduce=lambda x: sent.append(x.clone()) or x))
    assert len(sent) == 2
    ranks = WholeBatch(reduce=lambda tensor: tensor.copy_(sent[0] + sent[1]))
    scored = [score_part(loss, outputs, targets, marked, rows, ranks) for rows in parts]
    expected, gradients = score_part(loss, outputs, targets, marked, slice(0, 5), None)
    torch.testing.assert_close(sum(value for value, _ in scored), expected)
    for level, gradient in enumerate(gradients):
        found = torch.cat([part[level] for _, part in scored])
        torch.testing.assert_close(found, gradient, rtol=1e-12, atol=1e-15)


def test_batch_dice_of_each_part_alone_counts_the_labels_of_the_part():
    kind = {"regions": False, "batch_dice": True, "ignore_label": None}
    (logits, _), (target, _) = make_batch(**kind)
    loss, marked = build_loss(**kind), mark(LABEL_MARKS)
    parts = [slice(0, 1), slice(1, 2)]
    counts = loss.count(target[:1], marked=marked[:1]) + loss.count(target[1:2], marked=marked[1:2])
    whole = WholeBatch(counts=counts, is_dice_per_part=True)
    found = sum(float(loss(logits[rows], target[rows], whole, marked=marked[rows])) for rows in parts)
    alone = [float(loss(logits[rows], target[rows], marked=marked[rows])) for rows in parts]
    assert found == pytest.approx(sum(alone) / 2, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind):
    loss, marked = build_loss(**kind), choose_marks(kind)[:2]
    (logits, _), (targets, _) = make_batch(**kind)
    logits, targets = logits[:2, :, :2, :3, :3].clone().requires_grad_(), targets[:2, :, :2, :3, :3]
    assert torch.autograd.gradcheck(lambda given: loss(given, targets, marked=marked), logits)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_a_sample_without_marked_labels_teaches_nothing_and_is_finite(batch_dice):
    loss = build_loss(regions=False, batch_dice=batch_dice)
    (logits, _), (target, _) = make_batch(regions=False)
    logits = logits[:1].clone().requires_grad_()
    value = loss(logits, target[:1], marked=mark([(1, 0, 0)]))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_waits_for_the_device(kind):
    # A meta tensor has no values: whatever asks for one fails.
    loss, marked = build_loss(**kind, num_levels=3), choose_marks(kind)
    outputs, targets = make_batch(**kind, num_levels=3)
    meta = [level.float().to("meta").requires_grad_() for level in outputs]
    loss(meta, [level.to("meta") for level in targets], marked=marked.to("meta")).backward()
    outputs = [output.requires_grad_() for output in outputs]
    with RefuseWaiting():
        loss(outputs, targets, marked=marked).backward()


def test_marks_of_other_labels_are_refused():
    (logits, _), (target, _) = make_batch(regions=False)
    with pytest.raises(ValueError, match=r"marked must be \(5, 3\), got \(5, 2\)"):
        build_loss(regions=False, batch_dice=False)(logits, target, marked=torch.ones(5, 2, dtype=torch.bool))
