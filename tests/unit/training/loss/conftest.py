"""Small batches to score."""

import torch

KINDS = [
    {"regions": regions, "batch_dice": batch_dice, "ignore_label": ignore_label}
    for regions in (False, True)
    for batch_dice in (False, True)
    for ignore_label in (None, 3)
]


def make_batch(*, regions, ignore_label=None, num_levels=2, **_):
    """Make float64 logits and targets of five samples; the last sample has no foreground or is ignored."""
    generator = torch.Generator().manual_seed(0)
    outputs, targets = [], []
    for size in (6, 3, 2)[:num_levels]:
        outputs.append(torch.randn(5, 3, size, size, size, generator=generator, dtype=torch.float64))
        if regions:
            target = torch.rand(5, 3 + (ignore_label is not None), size, size, size, generator=generator) < 0.3
        else:
            target = torch.randint(0, 3 + (ignore_label is not None), (5, 1, size, size, size), generator=generator)
            target[4] = 0 if ignore_label is None else ignore_label
        targets.append(target if regions else target.short())
    return outputs, targets


def score(loss, outputs, targets, whole=None):
    """Return the loss and its gradients."""
    outputs = [output.detach().clone().requires_grad_() for output in outputs]
    value = loss(outputs, targets, whole)
    gradients = torch.autograd.grad(value, outputs, allow_unused=True)
    return value.detach(), [gradient for gradient in gradients if gradient is not None]
