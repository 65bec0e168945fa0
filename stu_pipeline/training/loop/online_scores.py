"""Voxel counts of validation patches: nnU-Net's pseudo Dice, counted on the device without one-hot maps."""

from __future__ import annotations

import torch


def count_matches(logits: torch.Tensor, target: torch.Tensor, *, regions: bool, ignore_label: int | None
                  ) -> torch.Tensor:  # fmt: skip
    """Count true positives, false positives and false negatives per foreground label or region.

    Args:
        logits: `(sample, output, *spatial)` at full resolution.
        target: label map `(sample, 1, *spatial)`, or one channel per region and, with an ignore label, one for it.
        regions: whether outputs are regions instead of labels.
        ignore_label: its voxels count nowhere.

    Returns:
        `(3, n)` whole numbers as float64 on the device, n labels (background left out) or regions.
    """
    if regions:
        return _count_regions(logits > 0, target.bool(), has_ignore_label=ignore_label is not None)
    return _count_labels(logits, target[:, 0].long(), ignore_label)


def _count_labels(logits: torch.Tensor, labels: torch.Tensor, ignore_label: int | None) -> torch.Tensor:
    num_labels = logits.shape[1]
    predicted = logits.argmax(1)
    # One more bin takes what does not count.
    nowhere = torch.full_like(labels, num_labels)
    if ignore_label is not None:
        is_ignored = labels == ignore_label
        predicted = torch.where(is_ignored, nowhere, predicted)
        labels = torch.where(is_ignored, nowhere, labels)
    matches = _count_bins(torch.where(predicted == labels, labels, nowhere), num_labels)
    positives = matches[1:num_labels]
    return torch.stack([
        positives,
        _count_bins(predicted, num_labels)[1:num_labels] - positives,
        _count_bins(labels, num_labels)[1:num_labels] - positives,
    ])  # fmt: skip


def _count_bins(values: torch.Tensor, num_labels: int) -> torch.Tensor:
    # Unlike bincount, this neither waits for the device nor depends on the order of its threads: whole numbers.
    bins = torch.zeros(num_labels + 1, dtype=torch.int64, device=values.device)
    flat = values.flatten()
    return bins.scatter_add_(0, flat, torch.ones_like(flat)).double()


def _count_regions(predicted: torch.Tensor, target: torch.Tensor, *, has_ignore_label: bool) -> torch.Tensor:
    reference = target
    if has_ignore_label:
        valid = ~target[:, -1:]
        predicted, reference = predicted & valid, target[:, :-1] & valid
    axes = [0, *range(2, predicted.ndim)]
    positives = (predicted & reference).sum(axes)
    return torch.stack([positives, predicted.sum(axes) - positives, reference.sum(axes) - positives]).double()
