"""What nnU-Net's loaders and transforms are told for a configuration, as plain values for ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stu_pipeline.nnunet.trainer import nnUNetTrainer


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchGeometry:
    """Sizes in voxels, `(z, y, x)` or `(y, x)`; labels as the network sees them."""

    patch: tuple[int, ...]
    initial_patch: tuple[int, ...]
    rotation_rad: tuple[float, float]
    is_dummy_2d: bool
    masked_channels: tuple[int, ...]
    previous_labels: tuple[int, ...]
    regions: tuple[tuple[int, ...], ...] | None
    ignore_label: int | None
    deep_supervision_scales: tuple[tuple[float, ...], ...] | None
    all_labels: tuple[int, ...]
    """Every label but the ignore label; nnU-Net's key for annotated voxels is `(-1, *all_labels)`."""


def describe_patches(trainer: nnUNetTrainer) -> PatchGeometry:
    """Ask nnU-Net's trainer, whose recipe this is."""
    rotation, is_dummy_2d, initial, _ = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    configuration, labels = trainer.configuration_manager, trainer.label_manager
    uses_mask = configuration.use_mask_for_norm or []
    scales = trainer._get_deep_supervision_scales()
    return PatchGeometry(
        patch=tuple(int(size) for size in configuration.patch_size),
        initial_patch=tuple(int(size) for size in initial),
        rotation_rad=(float(rotation[0]), float(rotation[1])),
        is_dummy_2d=bool(is_dummy_2d),
        masked_channels=tuple(channel for channel, is_masked in enumerate(uses_mask) if is_masked),
        previous_labels=tuple(int(label) for label in labels.foreground_labels) if trainer.is_cascaded else (),
        regions=_list_regions(labels.foreground_regions) if labels.has_regions else None,
        ignore_label=None if labels.ignore_label is None else int(labels.ignore_label),
        deep_supervision_scales=None if scales is None else tuple(tuple(map(float, scale)) for scale in scales),
        all_labels=tuple(int(label) for label in labels.all_labels),
    )


def _list_regions(regions: list[int | tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(region) if isinstance(region, (tuple, list)) else (int(region),) for region in regions)
