"""What the augmentation of one configuration is told. No torch here: loader processes read it too."""

from __future__ import annotations

from dataclasses import dataclass

from stu_pipeline.datasets.laterality import Mirroring


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationSettings:
    """Sizes in voxels, `(z, y, x)` or `(y, x)`. Probabilities and ranges are nnU-Net's and live with the transforms."""

    patch: tuple[int, ...]
    initial_patch: tuple[int, ...]
    """The box nnU-Net reads for a rotation; what lies outside it counts as outside the image."""
    rotation_rad: tuple[float, float]
    is_dummy_2d: bool
    """Whether slices along the first axis are transformed like flat images (anisotropic data)."""
    mirroring: Mirroring
    masked_channels: tuple[int, ...] = ()
    """Channels that are set to 0 outside the nonzero mask (label -1)."""
    previous_labels: tuple[int, ...] = ()
    """Foreground labels of the previous cascade stage, one input channel each; empty without a cascade."""
    regions: tuple[tuple[int, ...], ...] | None = None
    ignore_label: int | None = None
    deep_supervision_scales: tuple[tuple[float, ...], ...] | None = None
    """Relative size of each level's target, full resolution first; None without deep supervision."""
