"""nnU-Net's predictor with mirrored copies that swap left and right labels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from stu_pipeline.datasets.laterality import Mirroring, SideSwap, find_side_swap


def find_model_swap(
    mirroring: Mirroring,
    label_manager: Any,
    *,
    num_image_channels: int,
    has_previous_stage: bool,
    where: Path | None = None,
) -> SideSwap | None:
    """Find the channels of a network that swap in a mirrored copy; None where nothing does.

    Args:
        mirroring: of its training.
        label_manager: nnU-Net's, which orders the outputs.
        num_image_channels: input channels without those of a previous stage.
        has_previous_stage: whether the input ends with one channel per foreground label.
        where: for messages.

    Raises:
        ModelError: a label or region of the model lacks its partner.
    """
    if label_manager.has_regions:
        regions = label_manager.foreground_regions
        outputs = [tuple(map(int, region)) if isinstance(region, (tuple, list)) else int(region) for region in regions]
    else:
        outputs = list(range(int(label_manager.num_segmentation_heads)))
    previous = [int(label) for label in label_manager.foreground_labels] if has_previous_stage else []
    return find_side_swap(
        mirroring, outputs=outputs, num_image_channels=num_image_channels, previous_labels=previous, where=where
    )


class MirroredPredictor(nnUNetPredictor):  # type: ignore[misc, unused-ignore]
    """nnU-Net's predictor; call `use_mirroring_of` after its initialisation. Without a swap it is stock's."""

    side_swap: SideSwap | None = None

    def use_mirroring_of(self, mirroring: Mirroring, *, num_image_channels: int) -> None:
        """Average the mirrored copies that a training allows.

        Args:
            mirroring: of the training.
            num_image_channels: input channels without those of a previous stage.

        Raises:
            ModelError: it does not fit the labels of the model.
        """
        self.side_swap = find_model_swap(
            mirroring,
            self.label_manager,
            num_image_channels=num_image_channels,
            has_previous_stage=self.configuration_manager.previous_stage_name is not None,
        )
        # nnU-Net asks for the largest axis, which an empty tuple does not have.
        self.allowed_mirroring_axes = mirroring.axes or None

    @torch.inference_mode()
    def _internal_maybe_mirror_and_predict(self, x: torch.Tensor) -> torch.Tensor:
        """Average the network over the mirrored copies of one tile `(1, c, *patch)`."""
        if self.side_swap is None or not self.use_mirroring:
            plain: torch.Tensor = super()._internal_maybe_mirror_and_predict(x)
            return plain
        copies = list(_list_copies(self.allowed_mirroring_axes or ()))
        total: torch.Tensor = self.network(x)
        for axes in copies:
            total += run_mirrored(self.network, x, axes, self.side_swap)
        return total / (len(copies) + 1)


def run_mirrored(network: Any, x: torch.Tensor, axes: tuple[int, ...], swap: SideSwap | None) -> torch.Tensor:
    """Run a network on a mirrored copy and turn its answer back: voxels, and left and right channels.

    Args:
        network: maps `(b, c, *patch)` to `(b, outputs, *patch)`.
        x: `(b, c, *patch)`.
        axes: mirrored spatial axes, from 0.
        swap: the channels that change places; None for none.
    """
    flipped = [axis + 2 for axis in axes]
    is_swapped = swap is not None and swap.applies_to(axes)
    copy = torch.flip(x, flipped)
    if swap is not None and is_swapped and swap.inputs != tuple(range(len(swap.inputs))):
        copy = copy[:, list(swap.inputs)]
    output = torch.flip(network(copy), flipped)
    return output[:, list(swap.outputs)] if swap is not None and is_swapped else output


def _list_copies(axes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for count in range(1, len(axes) + 1):
        yield from combinations(axes, count)
