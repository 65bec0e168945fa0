"""Mirror a sample; along an axis that swaps left and right the labels of each pair change places."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stu_pipeline.datasets.laterality import Mirroring

_LARGEST_LABEL = torch.iinfo(torch.int16).max


def build_swap_table(mirroring: Mirroring, device: torch.device) -> Tensor | None:
    """Build the table that says what each label becomes along a swapping axis.

    Returns:
        int16, entry `label + 1` for labels from -1 to 32767, on the device; None where no label ever changes.
    """
    if not (mirroring.pairs and mirroring.swapping_axes):
        return None
    table = torch.arange(-1, _LARGEST_LABEL + 1, dtype=torch.int32).to(torch.int16)
    for left, right in mirroring.pairs:
        table[left + 1], table[right + 1] = right, left
    return table.to(device)


def mirror_sample(
    data: Tensor, labels: Tensor, axes: Sequence[int], mirroring: Mirroring, swap_table: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mirror data and label maps along spatial axes.

    Args:
        data: `(channel, *spatial)`.
        labels: int16 `(map, *spatial)`; all maps have the same label ids.
        axes: spatial axes, each at most once; empty gives back the input itself.
        mirroring: which axes swap left and right.
        swap_table: from `build_swap_table` for the same mirroring.
    """
    if not axes:
        return data, labels
    dims = [axis + 1 for axis in axes]
    data, labels = data.flip(dims), labels.flip(dims)
    # Twice mirrored is rotated: left stays left.
    is_swapped = sum(axis in mirroring.swapping_axes for axis in axes) % 2 == 1
    if is_swapped and swap_table is not None:
        labels = swap_table.index_select(0, (labels.flatten().to(torch.int32) + 1)).view(labels.shape)
    return data, labels
