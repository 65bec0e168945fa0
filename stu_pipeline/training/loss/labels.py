"""Dice and cross-entropy of labels that exclude each other: softmax, and one label per voxel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stu_pipeline.training.loss.level import (
    LevelSlopes,
    LevelSums,
    choose_dtype,
    choose_rows,
    choose_sum_dtype,
    hide_unmarked,
    make_empty_gradient,
    make_empty_sums,
    split_chunks,
)

# Neighbouring voxels mostly have the same label. So many bins per label keep GPU threads from waiting for each
# other, and float32 sums short.
_LANES = 64


@dataclass(frozen=True, slots=True)
class LabelLoss:
    """The sums and gradients of one level; targets are `(b, 1, *spatial)` whole numbers from 0.

    No map per label is made of the target: what belongs to a voxel's own label is gathered, what belongs to the
    other labels is the same for all voxels of a sample. Voxels of a label that is not marked in their sample are
    background there: they are none of the labels that are.
    """

    ignore_label: int | None = None

    def check_shapes(self, logits: Tensor, target: Tensor) -> str | None:
        """Return what is wrong with the two shapes, or None."""
        expected = (logits.shape[0], 1, *logits.shape[2:])
        return None if target.shape == expected else f"target must be {expected}, got {tuple(target.shape)}"

    def count_terms(self, target: Tensor, marked: Tensor | None) -> Tensor:
        """Return how many voxels are not ignored, `()`."""
        dtype = choose_sum_dtype(target.device)
        if self.ignore_label is None:
            return torch.full((), target.numel(), dtype=dtype, device=target.device)
        return (target != self.ignore_label).sum(dtype=dtype)

    def sum_voxels(self, logits: Tensor, target: Tensor, marked: Tensor | None) -> LevelSums:
        """Return the sums of a level."""
        flat, labels = logits.flatten(2), target.flatten(1)
        sums = make_empty_sums(logits, self.count_terms(target, marked))
        for rows, columns in split_chunks(flat):
            own_marked = choose_rows(marked, rows)
            own_label, is_counted = self._read_labels(labels[rows, columns], own_marked)
            scores = _normalize(hide_unmarked(flat[rows, :, columns], own_marked), choose_dtype(logits), is_log=True)
            own_log = scores.gather(1, own_label).squeeze(1)
            probability = scores.exp_()
            own = probability.gather(1, own_label).squeeze(1)
            if is_counted is None:
                ones = torch.ones_like(own)
            else:
                ones = is_counted.to(own.dtype)
                own, own_log = own * ones, own_log.masked_fill(~is_counted, 0)
                probability.mul_(ones.unsqueeze(1))
            bins = _number_bins(own_label, flat.shape[1])
            sums.dice[0, rows].add_(_sum_by_bin(own, bins, flat.shape[1]))
            sums.dice[1, rows].add_(probability.sum(2))
            sums.dice[2, rows].add_(_sum_by_bin(ones, bins, flat.shape[1]))
            sums.entropy.sub_(own_log.sum())
        return sums

    def make_gradient(self, logits: Tensor, target: Tensor, slopes: LevelSlopes, marked: Tensor | None) -> Tensor:
        """Return the gradient of the loss with respect to the logits, in their shape, dtype and layout."""
        gradient = make_empty_gradient(logits)
        flat, flat_gradient, labels = logits.flatten(2), gradient.flatten(2), target.flatten(1)
        for rows, columns in split_chunks(flat):
            own_marked = choose_rows(marked, rows)
            own_label, is_counted = self._read_labels(labels[rows, columns], own_marked)
            probability = _normalize(hide_unmarked(flat[rows, :, columns], own_marked), choose_dtype(logits))
            # With p the probabilities and g the slopes with respect to them, softmax gives p * (g - sum(p * g)).
            # g is the slope of the prediction's sum, plus at the own label that of the intersection.
            product = probability * slopes.prediction[rows].unsqueeze(2)
            own_slope = slopes.intersection[rows].gather(1, own_label.squeeze(1))
            own_part = probability.gather(1, own_label).squeeze(1) * own_slope
            shared = slopes.entropy - own_part - product.sum(1)
            own_part -= slopes.entropy
            if is_counted is not None:
                product.mul_(is_counted.unsqueeze(1))
                shared.mul_(is_counted)
                own_part.mul_(is_counted)
            product.scatter_add_(1, own_label, own_part.unsqueeze(1))
            torch.addcmul(product, probability, shared.unsqueeze(1), out=flat_gradient[rows, :, columns])
        return gradient

    def _read_labels(self, labels: Tensor, marked: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return labels as indices `(b, 1, voxel)` and `(b, voxel)` where they count (None: all).

        The index is 0 where the label is ignored or not marked.
        """
        is_counted = None if self.ignore_label is None else labels != self.ignore_label
        own_label = (labels if is_counted is None else torch.where(is_counted, labels, 0)).long()
        if marked is not None:
            own_label = own_label * marked.gather(1, own_label)
        return own_label.unsqueeze(1), is_counted


def _normalize(logits: Tensor, dtype: torch.dtype, *, is_log: bool = False) -> Tensor:
    """Return the softmax of `(b, label, voxel)` over the labels, or its logarithm."""
    function = torch.log_softmax if is_log else torch.softmax
    if logits.stride(1) == 1:  # labels lie side by side (channels last): along them no copy is needed
        return function(logits.transpose(1, 2), 2, dtype=dtype).transpose(1, 2)
    return function(logits, 1, dtype=dtype)


def _number_bins(own_label: Tensor, num_labels: int) -> Tensor:
    """Return for every voxel of `(b, 1, voxel)` the number of its bin: sample, label, lane; flattened."""
    samples, _, voxels = own_label.shape
    lane = torch.arange(voxels, device=own_label.device).remainder_(_LANES)
    first = torch.arange(samples, device=own_label.device).mul_(num_labels)
    return (own_label.squeeze(1) + first.unsqueeze(1)).mul_(_LANES).add_(lane).flatten()


def _sum_by_bin(values: Tensor, bins: Tensor, num_labels: int) -> Tensor:
    """Return the sums of values `(b, voxel)` per sample and label, `(b, label)`."""
    sums = values.new_zeros(values.shape[0] * num_labels * _LANES)
    return sums.scatter_add_(0, bins, values.flatten()).view(values.shape[0], num_labels, _LANES).sum(2)
