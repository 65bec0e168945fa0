"""The loss and its gradient on a GPU are those of the CPU and of nnU-Net."""

import pytest
import torch

from stu_pipeline.training.loss.segmentation import build_loss
from tests.engine_loss import build_loss as build_stock_loss
from tests.gpu.marks import DEVICE, pytestmark  # noqa: F401

SIZES = (48, 24, 12, 6, 3)
# What the logits are rounded to; sums are taken in float32 at least.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def make_levels(num_labels, *, regions=False):
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(2, num_labels, *[size] * 3, generator=generator) for size in SIZES]
    if regions:
        return outputs, [torch.rand(output.shape, generator=generator) < 0.3 for output in outputs]
    shapes = [(2, 1, *[size] * 3) for size in SIZES]
    return outputs, [torch.randint(0, num_labels, shape, generator=generator, dtype=torch.int16) for shape in shapes]


def score(loss, outputs, targets, device, dtype=torch.float32):
    leaves = [output.to(device, dtype).requires_grad_() for output in outputs]
    value = loss(leaves, [target.to(device) for target in targets])
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return float(value.detach()), torch.cat([level.flatten().float().cpu() for level in gradients if level is not None])


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize(("num_labels", "regions"), [(3, False), (40, False), (3, True)])
def test_value_and_gradient_are_those_of_the_cpu(num_labels, regions, batch_dice, dtype):
    outputs, targets = make_levels(num_labels, regions=regions)
    loss = build_loss(regions=regions, batch_dice=batch_dice, num_levels=len(SIZES))
    value, gradient = score(loss, outputs, targets, DEVICE, dtype)
    rounded = [output.to(dtype).float() for output in outputs]
    expected, expected_gradient = score(loss, rounded, targets, torch.device("cpu"))
    assert value == pytest.approx(expected, abs=1e-4)
    assert (gradient - expected_gradient).norm() < TOLERANCES[dtype] * expected_gradient.norm()


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_value_and_gradient_are_those_of_nnunet(batch_dice, regions):
    outputs, targets = make_levels(3, regions=regions)
    ours = score(build_loss(regions=regions, batch_dice=batch_dice, num_levels=len(SIZES)), outputs, targets, DEVICE)
    stock = score(build_stock_loss(batch_dice=batch_dice, regions=regions), outputs, targets, DEVICE)
    assert ours[0] == pytest.approx(stock[0], abs=1e-4)
    # The coarsest level has no weight: nnU-Net's gradient for it is zero, ours is not there.
    assert (ours[1] - stock[1][: len(ours[1])]).norm() < 1e-4 * stock[1].norm()
