"""What the loss promises beside nnU-Net's numbers: memory, no waiting, precision, layouts, shapes."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stu_pipeline.training.loss.labels import LabelLoss
from stu_pipeline.training.loss.segmentation import SegmentationLoss, build_loss, choose_level_weights
from tests.unit.training.loss.conftest import KINDS, make_batch, score


class RecordMemory(TorchDispatchMode):
    """Notes the place and size of whatever memory a computation touches."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.sizes.append((storage.data_ptr(), storage.nbytes()))
        return result


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind):
    loss = build_loss(**kind, num_levels=None)
    (logits, _), (targets, _) = make_batch(**kind)
    logits, targets = logits[3:, :, :2, :3, :3].clone().requires_grad_(), targets[3:, :, :2, :3, :3]
    assert torch.autograd.gradcheck(lambda given: loss(given, targets), logits)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("spatial", [(9, 10), (5, 6, 7)])
def test_channels_last_changes_the_layout_only(regions, spatial):
    generator = torch.Generator().manual_seed(0)
    last = torch.channels_last_3d if len(spatial) == 3 else torch.channels_last
    logits = torch.randn(2, 4, *spatial, generator=generator)
    targets = torch.randint(0, 2, (2, 4 if regions else 1, *spatial), generator=generator)
    loss = build_loss(regions=regions, batch_dice=False)
    expected, (gradient,) = score(loss, [logits], [targets])
    found, (last_gradient,) = score(loss, [logits.to(memory_format=last)], [targets])
    assert last_gradient.is_contiguous(memory_format=last)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(last_gradient, gradient)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(kind, dtype):
    loss = build_loss(**kind)
    (logits, _), (targets, _) = make_batch(**kind)
    logits = logits.to(dtype)
    expected, (gradient,) = score(loss, [logits.float()], [targets])
    found, (half_gradient,) = score(loss, [logits], [targets])
    assert found.dtype == torch.float32
    assert found == expected
    assert half_gradient.dtype == dtype
    assert torch.equal(half_gradient, gradient.to(dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_changes_nothing(kind):
    loss = build_loss(**kind)
    (logits, _), (targets, _) = make_batch(**kind)
    logits = logits.bfloat16()
    expected, (gradient,) = score(loss, [logits], [targets])
    with torch.autocast("cpu", torch.bfloat16):
        found, (cast_gradient,) = score(loss, [logits], [targets])
    assert found == expected
    assert torch.equal(cast_gradient, gradient)


def test_the_scale_of_the_loss_comes_before_the_rounding_to_half_precision():
    loss = build_loss(regions=False, batch_dice=False)
    logits = torch.zeros(1, 2, 600, 600, dtype=torch.float16, requires_grad=True)
    (gradient,) = torch.autograd.grad(2.0**16 * loss(logits, torch.ones(1, 1, 600, 600, dtype=torch.int16)), logits)
    expected = -(2.0**16) * 0.5 / 600**2
    assert gradient[0, 1].float().mean().item() == pytest.approx(expected, rel=0.5)
    assert (gradient[0, 1] < 0).all()


@pytest.mark.parametrize("regions", [False, True])
def test_certain_logits_stay_finite(regions):
    loss = build_loss(regions=regions, batch_dice=False)
    truth = torch.randint(0, 2, (1, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    targets = torch.cat([1 - truth, truth], 1) if regions else truth
    certain = (torch.cat([1 - truth, truth], 1) * 2e4 - 1e4).float()
    right, (still,) = score(loss, [certain], [targets])
    wrong, (gradient,) = score(loss, [-certain], [targets])
    assert right.item() == pytest.approx(-1)
    assert (still == 0).all()
    assert wrong.item() == pytest.approx(1e4 if regions else 2e4)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("regions", [False, True])
def test_only_the_gradient_takes_as_much_memory_as_the_logits(regions):
    loss = build_loss(regions=regions, batch_dice=True, ignore_label=40)
    logits = torch.zeros(2, 40, 40, 40, 40, requires_grad=True)
    targets = torch.zeros(2, 41 if regions else 1, 40, 40, 40, dtype=torch.bool if regions else torch.int16)
    with RecordMemory() as forward:
        value = loss(logits, targets)
    with RecordMemory() as backward:
        (gradient,) = torch.autograd.grad(value, logits)
    half = gradient.nbytes / 2
    own = {logits.data_ptr(), targets.data_ptr()}
    assert {place for place, size in forward.sizes if size > half} - own == set()
    assert {place for place, size in backward.sizes if size > half} - own == {gradient.data_ptr()}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_waits_for_the_device(kind):
    # A meta tensor has no values: whatever asks for one fails.
    loss = build_loss(**kind, num_levels=3)
    outputs, targets = make_batch(**kind, num_levels=3)
    outputs = [level.float().to("meta").requires_grad_() for level in outputs]
    targets = [level.to("meta") for level in targets]
    loss(outputs, targets).backward()
    assert outputs[0].grad.shape == outputs[0].shape
    assert outputs[2].grad is None


@pytest.mark.parametrize("regions", [False, True])
def test_the_same_input_gives_the_same_bits(regions):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, 40, 40, 40, generator=generator)
    targets = torch.randint(0, 2 if regions else 7, (2, 7 if regions else 1, 40, 40, 40), generator=generator)
    loss = build_loss(regions=regions, batch_dice=True)
    first, second = (score(loss, [logits], [targets]) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1][0], second[1][0])


def test_outputs_that_need_no_gradient_get_none():
    loss = SegmentationLoss(LabelLoss(), batch_dice=False, level_weights=(1, 1))
    outputs, targets = make_batch(regions=False)
    outputs[1].requires_grad_()
    loss(outputs, targets).backward()
    assert outputs[0].grad is None
    assert outputs[1].grad.abs().sum() > 0


def test_a_nan_is_seen_in_the_loss_and_in_every_gradient_of_its_sample():
    loss = build_loss(regions=False, batch_dice=False)
    (logits, _), (targets, _) = make_batch(regions=False)
    logits[0, 0, 0, 0, 0] = torch.nan
    value, (gradient,) = score(loss, [logits], [targets])
    assert value.isnan()
    assert gradient[0].isnan().all()


@pytest.mark.parametrize(
    ("num_levels", "weights"),
    [(None, [1]), (1, [1]), (2, [1, 0]), (3, [2 / 3, 1 / 3, 0]), (4, [4 / 7, 2 / 7, 1 / 7, 0])],
)
def test_weights_halve_and_the_last_level_has_none(num_levels, weights):
    assert choose_level_weights(num_levels) == pytest.approx(weights)


def test_a_loss_of_no_levels_is_refused():
    with pytest.raises(ValueError, match="no level has a weight"):
        SegmentationLoss(LabelLoss(), batch_dice=False, level_weights=(0, 0))


def test_a_wrong_number_of_levels_is_refused():
    outputs, targets = make_batch(regions=False)
    with pytest.raises(ValueError, match="loss has 3 levels, got 2"):
        build_loss(regions=False, batch_dice=False, num_levels=3)(outputs, targets)


@pytest.mark.parametrize(("regions", "num_channels", "expected"), [(False, 3, r"\(2, 1, 4, 4\)"), (True, 3, "2, 4, 4")])
def test_a_target_of_another_shape_is_refused(regions, num_channels, expected):
    loss = build_loss(regions=regions, batch_dice=False, ignore_label=None)
    with pytest.raises(ValueError, match=f"level 0: target must be .*{expected}"):
        loss(torch.zeros(2, 2, 4, 4), torch.zeros(2, num_channels, 4, 4, dtype=torch.int16))
