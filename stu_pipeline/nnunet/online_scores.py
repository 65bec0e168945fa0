"""Voxel counts of validation patches: nnU-Net's pseudo Dice."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Counts = dict[str, NDArray[np.float64]]


def count_matches(output: torch.Tensor, target: torch.Tensor, label_manager: Any) -> Counts:
    """Count true positives, false positives and false negatives per foreground label or region.

    Args:
        output: logits `(b, c, ...)` at full resolution.
        target: label map `(b, 1, ...)`, or one channel per region (plus one for the ignore label).
        label_manager: nnU-Net's label manager.

    Returns:
        `tp_hard`, `fp_hard`, `fn_hard`, one number per label (background left out) or region. Voxels
        with the ignore label count nowhere.
    """
    if label_manager.has_regions:
        predicted = torch.sigmoid(output) > 0.5
        reference, valid = _split_regions(target, label_manager.has_ignore_label)
    else:
        valid = None
        labels = target[:, 0].long()
        if label_manager.has_ignore_label:
            valid = (labels != label_manager.ignore_label)[:, None]
            labels = torch.where(valid[:, 0], labels, torch.zeros_like(labels))
        classes = torch.arange(1, output.shape[1], device=output.device).view(1, -1, *([1] * (output.ndim - 2)))
        predicted = output.argmax(1, keepdim=True) == classes
        reference = labels[:, None] == classes
    if valid is not None:
        predicted, reference = predicted & valid, reference & valid
    axes = [0, *range(2, output.ndim)]
    true_positives = (predicted & reference).sum(axes)
    return {
        "tp_hard": _to_numpy(true_positives),
        "fp_hard": _to_numpy(predicted.sum(axes) - true_positives),
        "fn_hard": _to_numpy(reference.sum(axes) - true_positives),
    }


def _split_regions(target: torch.Tensor, has_ignore_label: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    regions = target.bool()
    if not has_ignore_label:
        return regions, None
    return regions[:, :-1], ~regions[:, -1:]


def _to_numpy(counts: torch.Tensor) -> NDArray[np.float64]:
    return counts.cpu().numpy().astype(np.float64)
