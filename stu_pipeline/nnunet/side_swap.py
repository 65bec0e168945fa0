"""Which channels of a network change places in a mirrored copy, by the labels and regions of its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
