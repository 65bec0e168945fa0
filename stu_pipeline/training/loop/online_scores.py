"""Voxel counts of validation patches: nnU-Net's pseudo Dice, counted on the device without one-hot maps."""

from __future__ import annotations

import torch


def count_matches(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    regions: bool,
    ignore_label: int | None,
    marked: torch.Tensor | None = None,
) -> torch.Tensor:
    """Count true positives, false positives and false negatives per foreground label or region.

    Args:
        logits: `(sample, output, *spatial)` at full resolution.
        target: label map `(sample, 1, *spatial)`, or one channel per region and, with an ignore label, one for it.
        regions: whether outputs are regions instead of labels.
        ignore_label: its voxels count nowhere.
        marked: `(sample, output)`, false where an output is not marked in a sample: there it is neither right nor
            wrong. None: all are marked.

    Returns:
        `(3, n)` whole numbers as float64 on the device, n labels (background left out) or regions.
    """
    if regions:
        return _count_regions(logits > 0, target.bool(), marked, has_ignore_label=ignore_label is not None)
    return _count_labels(logits, target[:, 0].long(), marked, ignore_label)


def _count_labels(
    logits: torch.Tensor, labels: torch.Tensor, marked: torch.Tensor | None, ignore_label: int | None
) -> torch.Tensor:
    num_labels = logits.shape[1]
    predicted = logits.argmax(1)
    # One more bin takes what does not count.
    nowhere = torch.full_like(labels, num_labels)
    if ignore_label is not None:
        is_ignored = labels == ignore_label
        predicted = torch.where(is_ignored, nowhere, predicted)
        labels = torch.where(is_ignored, nowhere, labels)
    if marked is not None:
        # The prediction stays what it is, as in a mask: a voxel lost to an unmarked label is lost.
        predicted, labels = _drop_unmarked(predicted, marked), _drop_unmarked(labels, marked)
    matches = _count_bins(torch.where(predicted == labels, labels, nowhere), num_labels)
    positives = matches[1:num_labels]
    return torch.stack([
        positives,
        _count_bins(predicted, num_labels)[1:num_labels] - positives,
        _count_bins(labels, num_labels)[1:num_labels] - positives,
    ])  # fmt: skip


def _drop_unmarked(labels: torch.Tensor, marked: torch.Tensor) -> torch.Tensor:
    """Turn labels `(sample, *spatial)` into background where they are not marked; the bin for nowhere stays."""
    is_kept = torch.cat([marked, torch.ones_like(marked[:, :1])], 1).gather(1, labels.flatten(1))
    return labels * is_kept.view_as(labels)


def _count_bins(values: torch.Tensor, num_labels: int) -> torch.Tensor:
    # Unlike bincount, this neither waits for the device nor depends on the order of its threads: whole numbers.
    bins = torch.zeros(num_labels + 1, dtype=torch.int64, device=values.device)
    flat = values.flatten()
    return bins.scatter_add_(0, flat, torch.ones_like(flat)).double()


def _count_regions(
    predicted: torch.Tensor, target: torch.Tensor, marked: torch.Tensor | None, *, has_ignore_label: bool
) -> torch.Tensor:
    reference = target
    if has_ignore_label:
        valid = ~target[:, -1:]
        predicted, reference = predicted & valid, target[:, :-1] & valid
    if marked is not None:
        is_marked = marked.view(*marked.shape, *[1] * (predicted.ndim - 2))
        predicted, reference = predicted & is_marked, reference & is_marked
    axes = [0, *range(2, predicted.ndim)]
    positives = (predicted & reference).sum(axes)
    return torch.stack([positives, predicted.sum(axes) - positives, reference.sum(axes) - positives]).double()
