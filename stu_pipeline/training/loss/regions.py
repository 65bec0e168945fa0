"""Dice and cross-entropy of regions that may overlap: a sigmoid and a yes or no per region."""

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


@dataclass(frozen=True, slots=True)
class RegionLoss:
    """The sums and gradients of one level; targets are `(b, region, *spatial)`, true inside the region.

    With `has_ignore` the targets have one channel more, the last, true where the voxel is ignored.
    """

    has_ignore: bool = False

    def check_shapes(self, logits: Tensor, target: Tensor) -> str | None:
        """Return what is wrong with the two shapes, or None."""
        expected = (logits.shape[0], logits.shape[1] + self.has_ignore, *logits.shape[2:])
        return None if target.shape == expected else f"target must be {expected}, got {tuple(target.shape)}"

    def count_terms(self, target: Tensor, marked: Tensor | None) -> Tensor:
        """Return how many voxels times regions there are, `()`; with ignored voxels only how many others."""
        # nnU-Net's own difference: its masked cross-entropy is a sum over regions, its unmasked one a mean.
        dtype = choose_sum_dtype(target.device)
        if self.has_ignore:
            return (target[:, -1] == 0).sum(dtype=dtype)
        if marked is not None:
            return marked.sum(dtype=dtype) * target[0, 0].numel()
        return torch.full((), target.numel(), dtype=dtype, device=target.device)

    def sum_voxels(self, logits: Tensor, target: Tensor, marked: Tensor | None) -> LevelSums:
        """Return the sums of a level."""
        flat, inside = logits.flatten(2), target.flatten(2)
        sums = make_empty_sums(logits, self.count_terms(target, marked))
        for rows, columns in split_chunks(flat):
            own_marked = choose_rows(marked, rows)
            is_inside, is_counted = self._read_regions(inside[rows, :, columns], choose_dtype(logits), own_marked)
            scores = hide_unmarked(flat[rows, :, columns], own_marked).to(choose_dtype(logits))
            probability = scores.sigmoid()
            # The cross-entropy is softplus(-x) inside and softplus(x) outside, without a difference of large numbers.
            entropy = torch.nn.functional.softplus(scores * (1 - 2 * is_inside))
            if is_counted is not None:
                is_inside, probability, entropy = (part * is_counted for part in (is_inside, probability, entropy))
            sums.dice[1, rows].add_(probability.sum(2))
            sums.dice[2, rows].add_(is_inside.sum(2))
            sums.dice[0, rows].add_(probability.mul_(is_inside).sum(2))
            sums.entropy.add_(entropy.sum())
        return sums

    def make_gradient(self, logits: Tensor, target: Tensor, slopes: LevelSlopes, marked: Tensor | None) -> Tensor:
        """Return the gradient of the loss with respect to the logits, in their shape, dtype and layout."""
        gradient = make_empty_gradient(logits)
        flat, flat_gradient, inside = logits.flatten(2), gradient.flatten(2), target.flatten(2)
        for rows, columns in split_chunks(flat):
            own_marked = choose_rows(marked, rows)
            is_inside, is_counted = self._read_regions(inside[rows, :, columns], choose_dtype(logits), own_marked)
            probability = hide_unmarked(flat[rows, :, columns], own_marked).to(choose_dtype(logits)).sigmoid()
            slope = torch.addcmul(
                slopes.prediction[rows].unsqueeze(2), is_inside, slopes.intersection[rows].unsqueeze(2)
            )
            slope.mul_(probability).mul_(1 - probability)
            slope.add_((probability - is_inside).mul_(slopes.entropy))
            if is_counted is not None:
                slope.mul_(is_counted)
            flat_gradient[rows, :, columns] = slope
        return gradient

    def _read_regions(self, inside: Tensor, dtype: torch.dtype, marked: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return 1 inside marked regions `(b, region, voxel)`, and 1 where voxels count `(b, 1, voxel)` (None: all)."""
        is_counted = (inside[:, -1:] == 0).to(dtype) if self.has_ignore else None
        is_inside = (inside[:, :-1] if self.has_ignore else inside).to(dtype)
        return is_inside if marked is None else is_inside * marked.unsqueeze(2), is_counted
